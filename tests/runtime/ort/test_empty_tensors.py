"""Versions of ONNX Runtime that end the process on tensors without elements."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import exporter.verify.saved
import runtime
from exporter import VerificationError
from exporter.verify.saved import load_graph
from runtime.bundle import read_manifest
from runtime.ort.empty_tensors import runs_empty_attention, safe_arguments
from tests.helpers.runtime_bundles import feeds, write_routed


@pytest.mark.parametrize(
    ("version", "arguments", "attention"),
    [
        ("1.24.1", {"disabled_optimizers": ["MatmulTransposeFusion"]}, False),
        ("1.31.1", {"disabled_optimizers": ["MatmulTransposeFusion"]}, True),
        ("1.32.0", {}, True),
        ("2.0.0.dev1", {}, True),
    ],
)
def test_each_version_has_its_faults(
    monkeypatch: pytest.MonkeyPatch, version: str, arguments: dict[str, Any], attention: bool
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert safe_arguments() == arguments
    assert runs_empty_attention() == attention


def test_only_routed_graphs_pay_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_routed(tmp_path / "bundle")
    seen: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    original = onnxruntime.InferenceSession

    def session(*positional: Any, **named: Any) -> Any:
        made = original(*positional, **named)
        seen["row_ids" in [value.name for value in made.get_inputs()]].append(named)
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    predictor.prepare()
    predictor.run_routed(feeds(), [predictor.tasks[0]] * 2)
    assert [named.get("disabled_optimizers") for named in seen[False]] == [None] * len(seen[False])
    # Also where the graph is optimized once to save its packed weights.
    assert [named["disabled_optimizers"] for named in seen[True]] == [["MatmulTransposeFusion"]] * len(seen[True])
    assert len(seen[True]) >= 2


def test_attention_without_rows_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_routed(tmp_path / "bundle")
    manifest = replace(read_manifest(bundle), target="cpu")
    shutil.copytree(bundle, tmp_path / "cpu")
    manifest.write(tmp_path / "cpu")
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.1")
    predictor = runtime.load(tmp_path / "cpu", provider="cpu", threads=1)
    assert predictor.run(feeds())
    with pytest.raises(
        runtime.BundleError, match=r"ONNX Runtime 1\.24\.1 ends the process when no row selects .*1\.30 or newer"
    ):
        predictor.run_routed(feeds(), [predictor.tasks[0]] * 2)
    monkeypatch.setattr(onnxruntime, "__version__", "1.30.0")
    assert runtime.load(tmp_path / "cpu", provider="cpu", threads=1).run_routed(feeds(), [predictor.tasks[0]] * 2)


def test_an_export_that_would_end_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plan:
        target, atol = "cpu", 1e-4

    monkeypatch.setattr(exporter.verify.saved, "runs_empty_attention", lambda: False)
    with pytest.raises(VerificationError, match=r"nothing was written.* Install ONNX Runtime 1\.30 or newer"):
        load_graph(Plan(), tmp_path / "model.onnx", routed=True)  # type: ignore[arg-type]
