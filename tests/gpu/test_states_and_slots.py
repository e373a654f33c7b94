"""Split graphs and slots on the device: kept states, caches and tasks that are added, against single-task PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import LoRAConfig

import runtime
from exporter import export, task
from exporter.targets import TOLERANCES
from runtime import CudaOptions, Options, TrunkStates, load_states
from tests.gpu.models import SHAPES, bert, expected_logits
from tests.helpers.tiny_models import inputs, tiny_model

pytestmark = pytest.mark.gpu

# Adapters of different sizes and heads, so that graphs have padded groups and stems.
TASKS = {
    "topic": ("seq_bn", "4"),
    "tags": ("seq_bn", "tag"),
    "mood": (LoRAConfig(r=4, alpha=8), "3"),
    "tone": (LoRAConfig(r=8, alpha=8), "2"),
    "spam": ("seq_bn", "2"),
    "stars": ("seq_bn", "reg"),
}
OWN = ("topic", "tags", "mood", "tone")
ROUTED = ("topic", "mood", "tone")
ADDED = ("spam", "stars")
DROPS = (1, 2)
PRECISIONS = ["fp32", "fp16"]


@dataclass(frozen=True)
class Served:
    """A bundle on the device, and single-task PyTorch there."""

    folder: Path
    model: Any
    device: str
    precision: str

    def load(self, **options: Any) -> runtime.Predictor:
        return runtime.load(self.folder, provider=self.device, **options)

    def expected(self, name: str, shape: tuple[int, int], drop: int) -> np.ndarray:
        return expected_logits(self.model, name, name, inputs(shape), drop, self.device)

    def agrees(self, found: np.ndarray, expected: np.ndarray, kept: np.ndarray | None = None) -> None:
        """`kept`: the mask of the inputs; states end with the last token, so that padding has other logits."""
        assert found.shape == expected.shape
        if kept is not None and found.ndim == 3:
            found, expected = found[kept == 1], expected[kept == 1]
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, atol=TOLERANCES[self.precision] * scale, rtol=0)


def _only(*names: str) -> Any:
    model = tiny_model(TASKS, bert())
    for name in set(TASKS) - set(names):
        model.delete_adapter(name)
        model.delete_head(name)
    return model


def _served(folder: Path, names: tuple[str, ...], device: str, precision: str, **options: Any) -> Served:
    floats = "fp32" if device == "cpu" else precision
    export(_only(*names), tasks=names, output=folder, target=device, precision=floats, **options)
    return Served(folder, tiny_model(TASKS, bert()).to(device).eval(), device, floats)


@pytest.fixture(scope="module", params=PRECISIONS)
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: str) -> Served:
    folder = tmp_path_factory.mktemp("split") / "onnx"
    return _served(folder, OWN, device, request.param, drop=DROPS, split=True)


@pytest.fixture(scope="module", params=PRECISIONS)
def slots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: str) -> Served:
    folder = tmp_path_factory.mktemp("slots") / "onnx"
    return _served(folder, ROUTED, device, request.param, drop=1, slots=2, split=True)


@pytest.fixture(scope="module")
def task_files(slots: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("files")
    return {name: task(slots.folder, output=place / f"{name}.safetensors", model=_only(name)).output for name in ADDED}


def test_trunk_then_branches_equal_pytorch(split: Served) -> None:
    predictor = split.load()
    assert predictor.provider == split.device
    for drop in predictor.drops:
        for shape in SHAPES:
            states = predictor.run_trunk(inputs(shape), drop)
            for name, logits in predictor.run_branches(states).items():
                split.agrees(logits, split.expected(name, shape, drop), inputs(shape)["attention_mask"])


def test_states_are_kept_and_joined(split: Served, tmp_path: Path) -> None:
    predictor = split.load()
    one, other = (predictor.run_trunk(inputs(shape), 1) for shape in ((3, 16), (2, 5)))
    TrunkStates.concatenate([one[1:], other]).save(tmp_path / "states.safetensors")
    answers = split.load().run_branches(load_states(tmp_path / "states.safetensors"), ["topic", "tone"])
    for name, logits in answers.items():
        wanted = [split.expected(name, (3, 16), 1)[1:], split.expected(name, (2, 5), 1)]
        split.agrees(logits, np.concatenate(wanted))


def test_states_of_the_cpu_are_those_of_the_device(split: Served) -> None:
    """A corpus that was encoded on another provider keeps its states: their identity is that of the trunk."""
    if split.precision == "fp16":
        pytest.skip("the CPU provider computes fp16 in another graph")
    states = runtime.load(split.folder, provider="cpu").run_trunk(inputs((4, 33)), 1)
    for name, logits in split.load().run_branches(states).items():
        split.agrees(logits, split.expected(name, (4, 33), 1), inputs((4, 33))["attention_mask"])


def test_a_cache_answers_as_the_whole_graph(split: Served) -> None:
    predictor = split.load(state_cache=2**24)
    for drop in predictor.drops:
        for shape in ((1, 8), (4, 33), (8, 32), (4, 33), (1, 8)):
            for name, logits in predictor.run(inputs(shape), drop=drop).items():
                split.agrees(logits, split.expected(name, shape, drop), inputs(shape)["attention_mask"])
    assert predictor.state_cache is not None
    assert predictor.state_cache.hits > 0


def test_added_tasks_equal_pytorch(slots: Served, task_files: dict[str, Path]) -> None:
    """More tasks of a structure than slots, next to those of the bundle."""
    predictor = slots.load()
    for name in ADDED:
        predictor.add_task(name, task_files[name])
    predictor.add_task("spam again", task_files["spam"])
    names = ("spam", "topic", "spam again", "stars", "mood", "spam", "tone")
    for shape in SHAPES:
        rows = [number % shape[0] for number in range(len(names))]
        found = predictor.run_routed(inputs(shape), names, rows)
        for name, row, logits in zip(names, rows, found, strict=True):
            slots.agrees(logits, slots.expected(name.split()[0], shape, 1)[row])
        for name, logits in predictor.run(inputs(shape), [*ADDED, "topic"]).items():
            slots.agrees(logits, slots.expected(name, shape, 1))


def test_tasks_come_and_go_while_others_are_served(slots: Served, task_files: dict[str, Path]) -> None:
    predictor, failures, done = slots.load(), list[BaseException](), threading.Event()
    predictor.add_task("stays", task_files["spam"])
    shapes = ((2, 5), (4, 33), (8, 32))
    wanted = {shape: [slots.expected(name, shape, 1)[0] for name in ("spam", "mood")] for shape in shapes}

    def call() -> None:
        try:
            while not done.is_set():
                for shape, expected in wanted.items():
                    for one, other in zip(
                        predictor.run_routed(inputs(shape), ["stays", "mood"], [0, 0]), expected, strict=True
                    ):
                        slots.agrees(one, other)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            predictor.add_task("comes", task_files[ADDED[number % 2]])
            (row,) = predictor.run_routed(inputs((2, 5)), ["comes"], [0])
            slots.agrees(row, slots.expected(ADDED[number % 2], (2, 5), 1)[0])
            predictor.remove_task("comes")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_the_probe_reads_the_split_and_slots_graphs(split: Served, slots: Served, gpu: None) -> None:
    for served in (split, slots):
        assert served.load(verify=True).provider == served.device


@pytest.mark.parametrize("call", ["run", "run_routed", "run_trunk"])
def test_graphs_are_captured_next_to_them(split: Served, slots: Served, gpu: None, call: str) -> None:
    """`CudaOptions.graphs` captures the whole graph; what it does not cover answers as before."""
    served = slots if call == "run_routed" else split
    predictor = served.load(options=Options(cuda=CudaOptions(graphs=((8, 32),))))
    feeds, names = inputs((8, 32)), list(ROUTED)
    calls: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "run": lambda: dict(predictor.run(feeds, drop=1)),
        "run_routed": lambda: dict(zip(names, predictor.run_routed(feeds, names, [0] * len(names)), strict=True)),
        "run_trunk": lambda: dict(predictor.run_branches(predictor.run_trunk(feeds, 1))),
    }
    for _ in range(4):  # ONNX Runtime replays a capture from the fourth run on
        found = calls[call]()
    for name, logits in found.items():
        wanted = served.expected(name, (8, 32), 1)
        if call == "run_routed":
            wanted = wanted[0]
        served.agrees(logits, wanted, feeds["attention_mask"] if call == "run_trunk" else None)
