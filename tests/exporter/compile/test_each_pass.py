"""Whole compilations, with ONNX's checker and shape inference after each pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from adapters.composition import Fuse

from exporter import export
from exporter.compile import build, pipeline
from exporter.compile.pipeline import pass_name, run_passes
from tests.helpers.pass_testing import check_valid
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import bert_config, tiny_model


def _model(**tasks: tuple[str, str]) -> Any:
    return tiny_model(tasks, bert_config(layers=2))


def _tasks() -> Any:
    return _model(a=("seq_bn", "2"), b=("seq_bn", "3"), words=("par_bn", "tag"))


def _routed() -> Any:
    return _model(a=("seq_bn", "2"), b=("seq_bn", "3"))


def _lora() -> Any:
    return _model(a=("lora", "2"), b=("lora", "3"))


def _fusion() -> Any:
    model = _model(a=("seq_bn", "2"), b=("seq_bn", "3"))
    model.add_adapter_fusion(["a", "b"])
    return model


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *swept((_tasks, {"drop": 1})),
        (_routed, {"drop": 1, "routed": True, "target": "cpu", "precision": "int8"}),
        (_lora, {"target": "cuda", "precision": "fp16"}),
        (_fusion, {"tasks": {"a": Fuse("a", "b")}, "opset": 17}),
    ],
    ids=["bottlenecks", "routed int8", "lora fp16", "fusion"],
)
def test_every_pass_leaves_a_valid_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[], Any], options: dict[str, Any]
) -> None:
    seen: list[str] = []

    def check(step: ir.passes.InPlacePass, model: ir.Model) -> None:
        seen.append(pass_name(step))
        try:
            # The checker knows no operator of com.microsoft: it takes them, and the shapes noted there, as they are.
            check_valid(model)
        except Exception as error:
            raise AssertionError(f"{seen[-1]}, pass {len(seen)}: {error}") from error

    for module in (build, pipeline):
        monkeypatch.setattr(module, "run_passes", functools.partial(run_passes, observe=check))
    export(make(), output=tmp_path / "onnx", **options)
    own = {pass_name(step) for step in (*pipeline.template_passes(()), *pipeline.final_passes())}
    assert own <= set(seen)
