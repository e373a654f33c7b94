"""The probe of a bundle: verified logits for a few inputs, written by `export` and by `add`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter import VerificationError, add, export
from exporter.targets import FLOAT_TOLERANCES, TOLERANCES, probe_tolerances
from exporter.verify import probe as probe_module
from runtime.bundle import FLOATS, Probe, read_manifest
from tests.helpers.tiny_models import assert_parity, reference, tiny_model

TASKS = {"topic": ("seq_bn", "3"), "mood": ("double_seq_bn", "4"), "stars": ("seq_bn", "reg")}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS)


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "onnx"
    export(model, drop=(1, 0), routed=True, output=folder)
    return folder


def _probes(folder: Path) -> dict[int, Probe]:
    manifest = read_manifest(folder)
    return {
        variant.drop: Probe.parse((folder / variant.probe.file).read_bytes(), manifest.inputs) for variant in manifest.variants
    }


def test_the_logits_are_those_of_pytorch(model: Any, exported: Path) -> None:
    probes = _probes(exported)
    assert list(probes) == [1, 0]
    for drop, probe in probes.items():
        mask = probe.feeds["attention_mask"]
        assert mask[0].all()
        assert (mask[1, 0], mask[1, -1], mask[2, 0], mask[2, -1]) == (1, 0, 0, 1)  # padded on the right, and on the left
        for task in TASKS:
            assert_parity(probe.outputs[task], reference(model, task, probe.feeds, drop))
    rows = runtime.load(exported, provider="cpu", verify=True).verify()
    assert {(row.graph, row.drop, row.task) for row in rows} == {
        (graph, drop, task)
        for graph, drop in (
            *(("model.onnx", 1), ("model_routed.onnx", 1)),
            *(("model_drop0.onnx", 0), ("model_drop0_routed.onnx", 0)),
        )
        for task in TASKS
    }


def test_added_tasks_join_the_probe(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    export(model, tasks=["topic", "mood"], drop=(1, 0), extendable=True, output=folder)
    before = _probes(folder)
    add(folder, model=tiny_model(TASKS))
    for drop, probe in _probes(folder).items():
        assert list(probe.outputs) == sorted(TASKS)
        np.testing.assert_allclose(probe.outputs["topic"], before[drop].outputs["topic"], atol=1e-5)
        assert_parity(probe.outputs["stars"], reference(model, "stars", probe.feeds, drop))
    assert len(runtime.load(folder, provider="cpu").verify()) == 6


class Graph:
    """Stands in for a session, with logits that depend on the padding."""

    def __init__(self, folder: Path, change: Any) -> None:
        self._run, self._change = runtime.load(folder, provider="cpu").run, change

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = self._run(dict(feeds))
        return [self._change(found[name], feeds["attention_mask"]) for name in names]


@pytest.fixture(scope="module")
def planned(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A plan, its task groups and its bundle."""
    made: list[tuple[Any, Any]] = []
    original = probe_module.make_probe
    folder = tmp_path_factory.mktemp("planned") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "exporter.variant.make_probe",
            lambda plan, graph, groups, known: made.append((plan, groups)) or original(plan, graph, groups, known),  # type: ignore[func-returns-value]
        )
        export(model, output=folder)
    return (*made[0], folder)


def test_rows_without_padding_where_padding_is_not_finite(planned: tuple[Any, Any, Path]) -> None:
    plan, groups, folder = planned
    graph = Graph(folder, lambda logits, mask: logits if mask.all() else logits * np.nan)
    assert probe_module.make_probe(plan, graph, groups).feeds["attention_mask"].all()


def test_logits_that_are_never_finite_are_refused(planned: tuple[Any, Any, Path]) -> None:
    plan, groups, folder = planned
    with pytest.raises(VerificationError, match=r"(?s)nothing was written.*not finite"):
        probe_module.make_probe(plan, Graph(folder, lambda logits, _: logits * np.nan), groups)


def test_a_graph_that_differs_is_refused_task_by_task(planned: tuple[Any, Any, Path]) -> None:
    plan, groups, folder = planned
    graph = Graph(folder, lambda logits, _: logits + 1 if logits.shape[1] == 4 else logits)
    with pytest.raises(VerificationError, match=r"on the probe:\n  mood: max .onnx - torch. 1\.00e\+00, over 1\.00e-04$"):
        probe_module.make_probe(plan, graph, groups)
    assert probe_module.make_probe(plan, graph).outputs["mood"].shape == (3, 4)  # without models, nothing is compared


def test_tolerances_follow_precision_and_verification() -> None:
    assert probe_tolerances("fp32", 1e-4, 1e-6) == FLOAT_TOLERANCES
    assert probe_tolerances("fp16", 2e-2, 1e-3)["fp32"] == 2e-2
    assert probe_tolerances("fp32", 0.5, 0.4)["bf16"] == 0.5
    assert probe_tolerances("int8", TOLERANCES["int8"], 0.25)["fp32"] == 0.5
    assert probe_tolerances("int8", TOLERANCES["int8"], 0.9)["fp32"] == 1.0
    assert probe_tolerances("int8", TOLERANCES["int8"], 0.0)["fp32"] == TOLERANCES["fp16"]
    assert set(FLOAT_TOLERANCES) == set(FLOATS)
