"""PyTorch in fp64 decides where PyTorch's rounding may exceed the tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import LoRAConfig, SeqBnConfig

from exporter import VerificationError, export
from exporter.targets import TOLERANCES
from exporter.verify import exact as exact_module
from exporter.verify import slots as slots_module
from exporter.verify import verify as verify_module
from exporter.verify.eager import eager
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import tiny_model

TASKS = {"one": (SeqBnConfig(), "2"), "two": (SeqBnConfig(), "2")}


def rounded(error: float, wide: list[np.dtype[Any]] | None = None) -> Any:
    """The reference with an error in the logits of the task "two", like that of rounding."""

    def run(task_group: Any, plan: Any, task: Any, inputs: Any, activate: bool = True) -> list[np.ndarray]:
        found = eager(task_group, plan, task, inputs, activate)
        if wide is not None:
            wide.extend(field.dtype for field in found)
        return [field + np.float32(error) for field in found] if task.name == "two" else found

    return run


@pytest.mark.parametrize("routed", [False, *swept(True)])
def test_rounding_of_pytorch_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routed: bool) -> None:
    wide: list[np.dtype[Any]] = []
    monkeypatch.setattr(verify_module, "eager", rounded(3e-4))
    monkeypatch.setattr(exact_module, "eager", rounded(0.0, wide))
    report = export(tiny_model(TASKS), output=tmp_path / "onnx", routed=routed)
    assert set(wide) == {np.dtype("float64"), np.dtype("float32")}  # and the rounding of the latter
    assert max(row.max_abs_diff for row in report.parity) < 1e-5
    (note,) = report.variants[0].notes
    assert note == (
        "two: compared with PyTorch in fp64 for some of the verified inputs, where the graph differs from PyTorch in fp32 by "
        "up to 3.0e-04"
    )


def test_rounding_in_slots_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "eager", rounded(3e-4))
    report = export(tiny_model(TASKS), output=tmp_path / "onnx", slots=2)
    assert "two: compared with PyTorch in fp64" in report.variants[0].notes[0]
    monkeypatch.setattr(exact_module, "eager", rounded(3e-4))
    with pytest.raises(VerificationError, match="two in a slot at"):
        export(tiny_model(TASKS), output=tmp_path / "onnx", slots=2, overwrite=True)


def test_a_difference_from_fp64_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "eager", rounded(3e-4))
    monkeypatch.setattr(exact_module, "eager", rounded(3e-4))
    with pytest.raises(VerificationError, match="two at"):
        export(tiny_model(TASKS), output=tmp_path / "onnx")


@pytest.mark.parametrize(("rounding", "is_right"), [(5e-4, True), (1.5e-4, False)])
def test_a_graph_may_be_as_inexact_as_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: float, is_right: bool
) -> None:
    def run(task_group: Any, plan: Any, task: Any, inputs: Any, activate: bool = True) -> list[np.ndarray]:
        (found,) = eager(task_group, plan, task, inputs, activate)
        return [found + (2e-4 if found.dtype == np.float64 else np.float32(2e-4 + rounding))]

    monkeypatch.setattr(verify_module, "eager", rounded(3e-4))
    monkeypatch.setattr(exact_module, "eager", run)
    if is_right:
        report = export(tiny_model(TASKS), output=tmp_path / "onnx", routed=True)
        assert max(row.max_abs_diff / row.tolerance for row in report.parity) == pytest.approx(2e-4 / rounding, rel=0.05)
    else:
        with pytest.raises(VerificationError, match=r"over 1\.50e-04"):
            export(tiny_model(TASKS), output=tmp_path / "onnx", routed=True)


def test_a_large_difference_is_no_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "eager", rounded(0.1))
    monkeypatch.setattr(exact_module, "in_fp64", lambda *_: pytest.fail("run in fp64"))
    with pytest.raises(VerificationError, match="two at"):
        export(tiny_model(TASKS), output=tmp_path / "onnx")


def test_the_model_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model({"one": (LoRAConfig(r=4), "2"), "two": (LoRAConfig(r=4), "2")})
    monkeypatch.setattr(verify_module, "eager", rounded(3e-4))
    export(model, output=tmp_path / "onnx")
    assert {parameter.dtype.itemsize for parameter in model.parameters()} == {4}


@pytest.mark.parametrize(("share", "advised"), [(0.5, True), (0.02, False)])
def test_rounding_of_fp16_is_explained(tmp_path: Path, share: float, advised: bool) -> None:
    """A difference of a few tolerances has an advice, that of a wrong graph has none."""
    model = tiny_model(TASKS)
    rows = export(model, output=tmp_path / "onnx", precision="fp16").parity
    largest = max(row.max_abs_diff / (row.tolerance / TOLERANCES["fp16"]) for row in rows)
    with pytest.raises(VerificationError, match="over") as failure:
        export(model, output=tmp_path / "onnx", precision="fp16", atol=share * largest, overwrite=True)
    assert ("--evaluation" in str(failure.value)) == advised
