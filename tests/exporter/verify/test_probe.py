"""The probe of a bundle: verified logits for a few inputs, written by `export` and by `add`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import runtime
from exporter import VerificationError, add, export
from exporter.targets import FLOAT_TOLERANCES, TOLERANCES, probe_tolerances
from exporter.verify import probe as probe_module
from exporter.verify.rounding import measure_rounding
from exporter.verify.saved import load_graph, verify_saved
from runtime.bundle import FLOATS, Probe, open_bundle, read_manifest
from runtime.ort.known_providers import CUDA
from runtime.ort.probe import ProbeCheck
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
    graph = Graph(folder, lambda logits, _: logits * (np.nan if logits.shape[1] == 4 else 1))
    with pytest.raises(
        VerificationError, match=r"but the exported graph gives NaN or infinity for mood on rows of 5 tokens; nothing"
    ):
        probe_module.make_probe(plan, graph, groups)


def test_a_model_without_finite_logits_is_refused(planned: tuple[Any, Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, groups, folder = planned
    monkeypatch.setattr(probe_module, "_eager", lambda *_: None)
    with pytest.raises(
        VerificationError, match="finite logits, but PyTorch fails, or gives NaN or infinity on rows of 5 tokens"
    ):
        probe_module.make_probe(plan, Graph(folder, lambda logits, _: logits), groups)


def test_a_graph_that_differs_is_refused_task_by_task(planned: tuple[Any, Any, Path]) -> None:
    plan, groups, folder = planned
    graph = Graph(folder, lambda logits, _: logits + 1 if logits.shape[1] == 4 else logits)
    with pytest.raises(VerificationError, match=r"on the probe:\n  mood: max .onnx - torch. 1\.00e\+00, over 1\.00e-04$"):
        probe_module.make_probe(plan, graph, groups)
    assert probe_module.make_probe(plan, graph).outputs["mood"].shape == (3, 4)  # without models, nothing is compared


def test_a_model_of_the_library_that_differs(planned: tuple[Any, Any, Path]) -> None:
    plan, groups, folder = planned
    owners = {task.setup: (group, task) for group in groups for task in group.tasks}

    def library(setup: str, change: float = 0.0) -> Any:
        group, task = owners[setup]
        found = copy.deepcopy(group.activate(task))
        with torch.no_grad():
            for name, parameter in found.named_parameters():
                parameter.add_(change if f"heads.{setup}" in name and name.endswith("bias") else 0.0)
        return found

    graph = load_graph(plan, folder / "model.onnx", routed=False)
    found = verify_saved(plan, groups, graph, None, library)
    assert found.probed is not None
    assert set(found.probed[1]) == set(TASKS)
    with pytest.raises(VerificationError, match=r"differ from those that PEFT itself loads .*\n  mood at ") as raised:
        verify_saved(plan, groups, graph, None, lambda setup: library(setup, 0.5 if setup == "mood" else 0.0))
    assert "topic" not in str(raised.value)


def test_tolerances_follow_precision_and_verification() -> None:
    assert probe_tolerances("fp32", 1e-4) == FLOAT_TOLERANCES
    assert probe_tolerances("fp16", 2e-2)["fp32"] == 2e-2
    assert probe_tolerances("fp32", 0.5)["bf16"] == 0.5
    moved: dict[Any, float] = {"fp32": 0.05, "tf32": 0.1, "fp16": 0.1, "bf16": 0.9}
    found = probe_tolerances("int8", TOLERANCES["int8"], moved)
    assert found == {"fp32": pytest.approx(0.15), "tf32": pytest.approx(0.3), "fp16": pytest.approx(0.3), "bf16": 1.0}
    assert probe_tolerances("int8", TOLERANCES["int8"]) == {**FLOAT_TOLERANCES, "fp32": TOLERANCES["fp16"]}


@pytest.fixture(scope="module")
def integers(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Probe]:
    """A bundle in int8, with its probe."""
    folder = tmp_path_factory.mktemp("int8") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.compile.target_passes._LEAST", 1)  # the model is tiny
        export(model, drop=1, precision="int8", output=folder)
    return folder, _probes(folder)[1]


def test_every_task_has_its_tolerance_in_int8(integers: tuple[Path, Probe]) -> None:
    manifest = read_manifest(integers[0])
    entry = manifest.variants[0].probe
    assert set(entry.tasks) == set(TASKS)
    for own in entry.tasks.values():
        assert own["fp32"] <= own["fp16"] == own["tf32"] <= own["bf16"] <= 1
        assert 0.02 <= own["fp32"] < 0.5
    assert entry.tolerances == {kind: max(own[kind] for own in entry.tasks.values()) for kind in FLOATS}
    bad = replace(manifest.variants[0], probe=replace(entry, tasks={"topic": entry.tasks["topic"]}))
    with pytest.raises(runtime.BundleError, match=r"probe\.tasks: expected mood, stars, topic, found topic"):
        replace(manifest, variants=(bad,)).write(integers[0])


def _changing(change: Any) -> Any:
    return lambda run: lambda names, given: [change(array) for array in run(names, given)]


@pytest.mark.parametrize(
    "wrong",
    [
        _changing(np.zeros_like),
        _changing(np.negative),
        _changing(lambda array: array[::-1]),
        _changing(lambda array: np.repeat(array[:1], len(array), 0)),
        _changing(lambda array: np.full_like(array, array.mean())),
    ],
    ids=["zeros", "sign", "rows", "one-row", "mean"],
)
def test_wrong_providers_are_refused_in_int8(integers: tuple[Path, Probe], wrong: Any) -> None:
    folder, _ = integers
    manifest, files = open_bundle(folder)
    files.bind(manifest.files)
    check = ProbeCheck(files, manifest, CUDA, runtime.Options())
    run = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]).run
    assert all(row.is_right for row in check.check("model.onnx", run))
    with pytest.raises(runtime.ProviderError, match="provider cuda: its logits differ"):
        check.check("model.onnx", wrong(run))


def test_rounding_of_a_float_model_is_not_measured(planned: tuple[Any, Any, Path]) -> None:
    plan, _, folder = planned
    assert measure_rounding(plan, next(iter(_probes(folder).values())), folder / "model.onnx") == {}
