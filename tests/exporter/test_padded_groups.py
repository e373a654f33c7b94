"""Tasks whose adapters differ in size are one batch: padded with zeros, and equal to single-task PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adapters import LoRAConfig, SeqBnConfig

import runtime
from exporter import ExportError, Report, add, export, task
from exporter.inspect import inspect_bundle
from exporter.planning.padded_structure import fits, larger_structure
from exporter.stored_tasks import stored_group_of
from runtime.bundle import read_manifest
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, inputs, reference, run_graph, tiny_model

TASKS = {
    "large": (LoRAConfig(r=8, alpha=16), "3"),
    "small": (LoRAConfig(r=4, alpha=4), "3"),
    "one module": (LoRAConfig(r=8, attn_matrices=["q"]), "3"),
    "other alpha": (LoRAConfig(r=4, alpha=32), "2"),  # another task is between those of equal size
    "wide": (SeqBnConfig(reduction_factor=4), "3"),
    "narrow": (SeqBnConfig(reduction_factor=8), "2"),
    "tags": (LoRAConfig(r=4), "tag"),
}
ROUTED = [name for name in TASKS if name != "tags"]


def _groups(report: Report) -> dict[str, int]:
    return {each.name: each.group for each in report.variants[0].tasks}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS)


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("padded") / "onnx"
    return folder, export(model, tasks=ROUTED, routed=True, extendable=True, output=folder)


def test_padded_tasks_answer_as_pytorch(model: Any, exported: tuple[Path, Report]) -> None:
    predictor = runtime.load(exported[0], provider="cpu", threads=1)
    for shape in ((4, 9), (1, 1), (3, 31)):
        feeds = inputs(shape)
        expected = {name: reference(model, name, feeds, 0) for name in ROUTED}
        answers = predictor.run(feeds)
        for name in ROUTED:
            assert_parity(answers[name], expected[name])
        names = [ROUTED[number % len(ROUTED)] for number in range(shape[0] * 2)]
        rows = [number % shape[0] for number in range(len(names))]
        for name, row, answer in zip(names, rows, predictor.run_routed(feeds, names, rows), strict=True):
            assert_parity(answer, expected[name][row])


def test_the_report_says_what_padding_costs(exported: tuple[Path, Report]) -> None:
    report = exported[1]
    groups = _groups(report)
    assert len({groups[name] for name in ("large", "small", "other alpha", "one module")}) == 1
    assert groups["wide"] == groups["narrow"] != groups["large"]
    padding = {each.name: each.padding for each in report.variants[0].tasks}
    assert padding["large"] is None
    assert padding["wide"] is None
    small = padding["small"]
    assert small is not None
    assert small.bytes == 2 * 2 * 4 * (32 + 32) * 4  # two layers, query and value, four rows and columns of 32 in fp32
    assert 0.0 < small.operations < 0.15
    stored = {name: read_manifest(exported[0]).variants[0].tasks[name] for name in padding}
    assert {name: (each.padding_bytes, each.padding_operations) for name, each in stored.items()} == {
        name: (each.bytes, each.operations) if each is not None else (0, 0.0) for name, each in padding.items()
    }
    view = next(task for task in inspect_bundle(exported[0]).graphs[0].tasks if task.name == "small")
    assert (view.padding_bytes, view.padding_operations) == (small.bytes, small.operations)


def test_equal_ranks_have_as_many_nodes(exported: tuple[Path, Report], tmp_path: Path) -> None:
    tasks = {name: (LoRAConfig(r=8), "3") for name in "abcd"} | {name: (SeqBnConfig(reduction_factor=4), "3") for name in "ef"}
    equal = export(
        tiny_model(tasks),
        output=tmp_path / "equal",
    )
    mixed = exported[1].variants[0]
    # The tasks with another number of labels have a separate head.
    assert mixed.graph.nodes <= equal.variants[0].graph.nodes + 16


@pytest.mark.parametrize("precision", ["int8", *swept("fp16")])
def test_lower_precisions(model: Any, tmp_path: Path, precision: str) -> None:
    names = ["large", "small", "wide", "narrow"]
    report = export(model, tasks=names, precision=precision, routed=True, output=tmp_path / "low")
    groups = _groups(report)
    assert groups["large"] == groups["small"]
    assert groups["wide"] == groups["narrow"]


def test_drops_per_task_and_tagging(model: Any, tmp_path: Path) -> None:
    """Another drop or head is another group, whatever the rank."""
    drops = {"large": 0, "small": 0, "other alpha": 1, "tags": 0}
    report = export(model, tasks=list(drops), drop=drops, output=tmp_path / "drops")
    groups = _groups(report)
    assert groups["large"] == groups["small"]
    assert len({groups["large"], groups["other alpha"], groups["tags"]}) == 3
    feeds = inputs((2, 11))
    found = run_graph(tmp_path / "drops", feeds)
    for name, drop in drops.items():
        assert_parity(found[name], reference(model, name, feeds, drop))


def test_a_rank_beyond_the_bound_stays_apart(tmp_path: Path) -> None:
    model = tiny_model({"huge": (LoRAConfig(r=256), "3"), "tiny": (LoRAConfig(r=2), "3"), "next": (LoRAConfig(r=3), "3")})
    report = export(model, output=tmp_path / "apart")
    groups = _groups(report)
    assert groups["tiny"] == groups["next"] != groups["huge"]
    notes = [note for note in report.variants[0].notes if note.startswith("next: a branch next to that of huge")]
    assert len(notes) == 1
    assert "(bound 15 %)" in notes[0]
    feeds = inputs((2, 7))
    found = run_graph(tmp_path / "apart", feeds)
    for name in groups:
        assert_parity(found[name], reference(model, name, feeds))


def test_added_tasks_are_padded(model: Any, tmp_path: Path) -> None:
    """The first task of a group need not be the largest, whose graph is traced."""
    folder = tmp_path / "onnx"
    own = ["small", "large", "wide"]
    export(model, tasks=own, drop=1, slots=2, output=folder)
    added = ["one module", "narrow"]
    rest = tiny_model(TASKS)
    for name in set(TASKS) - {"other alpha"}:
        rest.delete_adapter(name)
        rest.delete_head(name)
    file = task(folder, output=tmp_path / "task.safetensors", model=rest).output
    predictor = runtime.load(folder, provider="cpu", threads=1)
    predictor.add_task("other alpha", file)
    feeds = inputs((2, 9))
    assert_parity(predictor.run(feeds, ["other alpha"])["other alpha"], reference(model, "other alpha", feeds, 1))
    rest = tiny_model(TASKS)
    for name in set(TASKS) - set(added):
        rest.delete_adapter(name)
        rest.delete_head(name)
    report = add(folder, model=rest)
    assert [each.name for each in report.variants[0].tasks if each.padding is not None and each.padding.bytes] == added
    found = run_graph(folder, feeds)
    for name in (*own, *added):
        assert_parity(found[name], reference(model, name, feeds, 1))
    padding = {name: each.padding_bytes for name, each in read_manifest(folder).variants[0].tasks.items()}
    assert padding["small"] == 1 * 2 * 4 * (32 + 32) * 4  # as in the report of an export, with one more layer dropped
    assert padding["narrow"] > 0
    assert padding["large"] == padding["wide"] == 0


def test_a_larger_task_is_not_added(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    export(model, tasks=["small"], extendable=True, output=folder)
    rest = tiny_model(TASKS)
    for name in set(TASKS) - {"large"}:
        rest.delete_adapter(name)
        rest.delete_head(name)
    with pytest.raises(ExportError, match="no task of the bundle has the structure of the task 'large'"):
        add(folder, model=rest)


def _lora(**settings: Any) -> str:
    config: dict[str, Any] = {
        "architecture": "lora",
        "composition_mode": "add",
        "r": 4,
        "attn_matrices": ["q"],
        "leave_out": [],
        "use_dora": False,
    }
    config |= {"selfattn_lora": True, "intermediate_lora": False, "output_lora": False, **settings}
    return json.dumps({"head": ["h", 1], "setup": [0, [config], [], 1]}, sort_keys=True)


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        ({}, {"r": 8}, True),
        ({"r": 8}, {}, False),
        ({}, {"attn_matrices": ["q", "v"]}, True),
        ({"leave_out": [0]}, {}, True),
        ({"use_gating": True}, {"r": 8}, False),
        ({"use_dora": True}, {"use_dora": True, "r": 8}, False),
    ],
)
def test_what_fits(one: dict[str, Any], other: dict[str, Any], fit: bool) -> None:
    assert fits(_lora(**one), _lora(**other)) is fit


def test_a_smaller_size_is_no_reason_for_a_refusal() -> None:
    stored: Any = [SimpleNamespace(structure=_lora(r=8), group=SimpleNamespace(tasks=("own",)))]
    new: Any = SimpleNamespace(name="new", structure=_lora(attn_matrices=["k", "q"]))
    with pytest.raises(ExportError, match=r'has attn_matrices \["k", "q"\], that of the task .own. has attn_matrices \["q"\]'):
        stored_group_of(stored, new)


def test_the_larger_structure_has_all_modules() -> None:
    assert larger_structure([_lora(r=8), _lora(attn_matrices=["v"])]) == _lora(r=8, attn_matrices=["q", "v"])
    assert np.all([fits(each, _lora(r=8, attn_matrices=["q", "v"])) for each in (_lora(), _lora(attn_matrices=["v"]))])
