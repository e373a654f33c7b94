"""Models that cannot be traced: the message names the module, the operator or argument, and what to try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert.modeling_bert import BertIntermediate

from exporter import ExportError, export
from exporter.trace.explain import explain
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import tiny_model


class _Branching(BertIntermediate):  # type: ignore[misc]  # Any for mypy
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = super().forward(hidden_states)
        return hidden * 2 if hidden.sum() > 0 else hidden


class _Untranslated(BertIntermediate):  # type: ignore[misc]  # Any for mypy
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = super().forward(hidden_states)
        found: torch.Tensor = torch.special.bessel_j1(hidden)
        return found


class _Fixed(BertIntermediate):  # type: ignore[misc]  # Any for mypy
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = super().forward(hidden_states)
        return hidden.reshape(2, 7, 64)


class _Argument(BertIntermediate):  # type: ignore[misc]  # Any for mypy
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = super().forward(hidden_states, scale=2)  # the mistake
        return hidden


class _Failing(BertIntermediate):  # type: ignore[misc]  # Any for mypy
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  # the interface
        raise RuntimeError("the moon is full")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (_Branching, ("decides by the values of a tensor", "layer.1.intermediate (_Branching) (test_explain.py:")),
        (_Untranslated, ("prims.bessel_j1", "torch.onnx has no form of the operator")),
        (_Fixed, ("an axis of the input 'input_ids'", "fixes the batch or the length")),
        (_Argument, ("unexpected keyword argument 'scale'", "layer.1.intermediate (_Argument) (test_explain.py:")),
        *swept(
            (
                _Failing,
                ("the moon is full, in ", "layer.1.intermediate (_Failing) (test_explain.py:", "PyTorch cannot run it either"),
            )
        ),
    ],
)
def test_failed_traces_are_explained(tmp_path: Path, kind: Any, expected: tuple[str, ...]) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.bert.encoder.layer[1].intermediate.__class__ = kind
    with pytest.raises(ExportError) as caught:
        export(model, output=tmp_path / "onnx")
    message = str(caught.value)
    assert message.startswith("torch.export ")
    assert "BertAdapterModel: " in message
    assert any(remedy in message for remedy in ('attn_implementation="eager"', "give a model", "correct the model"))
    assert "\n" not in message
    assert "\x1b" not in message
    for part in expected:
        assert part in message
    assert not list(tmp_path.iterdir())


def test_an_error_that_the_caller_handles_is_no_reason(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.bert.encoder.layer[1].intermediate.__class__ = _Failing
    try:
        export(tmp_path / "missing", output=tmp_path / "onnx")
    except ExportError:
        with pytest.raises(ExportError, match="the moon is full") as caught:
            export(model, output=tmp_path / "onnx")
    assert "missing" not in str(caught.value)


def test_complex_numbers() -> None:
    error = RuntimeError("No ONNX function found for aten.unsqueeze. No decompositions registered for the complex-valued input")
    assert "complex numbers, which ONNX does not have" in explain(error)
