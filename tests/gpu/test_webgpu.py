"""The plug-in for WebGPU on a GPU, or on a software Vulkan (`make test-webgpu`), against single-task PyTorch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter import export, task
from exporter.targets import TOLERANCES
from runtime.ort.devices import survey
from tests.gpu.models import CASES, SHAPES, Exported, bert, expected_logits, exported
from tests.helpers.tiny_models import inputs, tiny_model

pytestmark = pytest.mark.gpu

Get = Callable[[str, str], Exported]


@pytest.fixture(scope="module", autouse=True)
def _has_a_device() -> None:
    (found,) = (each for each in survey()["providers"] if each["name"] == "webgpu")
    if not found["devices"]:
        pytest.skip("needs onnxruntime-ep-webgpu, Vulkan's loader and a GPU or `make test-webgpu`")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, device: str) -> Get:
    @functools.cache
    def get(case: str, precision: str) -> Exported:
        return exported(case, tmp_path_factory.mktemp("webgpu") / case, device, "portable", precision)

    return get


def _only(model: Any, *names: str) -> Any:
    """A copy of the model with some of its tasks."""
    copied = copy.deepcopy(model).cpu()
    for name in set(copied.adapters_config) - set(names):
        copied.delete_adapter(name)
        copied.delete_head(name)
    return copied


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_webgpu_equals_pytorch(bundles: Get, case: str, precision: str) -> None:
    bundle = bundles(case, precision)
    predictor = runtime.load(bundle.folder, provider="webgpu")
    counts = predictor.node_counts(predictor.drops[0])
    assert counts["webgpu"] > 10 * counts.get("cpu", 0), counts
    for drop in predictor.drops:
        for shape in SHAPES:
            feeds = bundle.feeds(shape)
            for name, found in predictor.run(feeds, drop=drop).items():
                assert _difference(found, bundle.expected(name, feeds, drop)) <= TOLERANCES[precision], (name, drop, shape)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.routed])
def test_routed_rows_equal_pytorch(bundles: Get, case: str, precision: str) -> None:
    bundle = bundles(case, precision)
    predictor = runtime.load(bundle.folder, provider="webgpu")
    generator = np.random.default_rng(0)
    for drop in predictor.drops:
        for shape in SHAPES:
            feeds = bundle.feeds(shape)
            rows = generator.integers(0, shape[0], 2 * shape[0] + 1).tolist()
            tasks = [predictor.tasks[number] for number in generator.integers(0, len(predictor.tasks), len(rows))]
            expected = {name: bundle.expected(name, feeds, drop) for name in predictor.tasks}
            for row, name, found in zip(rows, tasks, predictor.run_routed(feeds, tasks, rows, drop), strict=True):
                assert _difference(found, expected[name][row]) <= TOLERANCES[precision], (name, drop, shape)


def test_int8_is_that_of_the_cpu(bundles: Get) -> None:
    """By name only: WebGPU leaves most of such a graph to the CPU."""
    bundle = bundles("bottlenecks", "int8")
    wanted, found = (runtime.load(bundle.folder, provider=provider) for provider in ("cpu", "webgpu"))
    for shape in SHAPES:
        feeds = bundle.feeds(shape)
        for name, logits in found.run(feeds).items():
            np.testing.assert_allclose(logits, wanted.run(feeds)[name], atol=1e-2)


def test_states_and_added_tasks_equal_pytorch(device: str, tmp_path: Path) -> None:
    tasks = {
        name: ("lora" if name in ("tone", "mode") else "seq_bn", "3") for name in ("topic", "mood", "tone", "mode", "spam")
    }
    model = tiny_model(tasks, bert()).to(device).eval()
    bundle = tmp_path / "onnx"
    export(_only(model, "topic", "mood", "tone", "mode"), False, drop=1, output=bundle, slots=2, split=True)
    file = task(bundle, output=tmp_path / "spam.safetensors", model=_only(model, "spam")).output
    predictor = runtime.load(bundle, provider="webgpu")
    predictor.add_task("spam", file)
    for shape in SHAPES:
        feeds = inputs(shape)
        states = predictor.run_trunk(feeds, 1)
        for names in (["spam"], ["mode", "topic"], list(tasks)):
            for answers in (predictor.run(feeds, names), predictor.run_branches(states, names)):
                assert list(answers) == names
                for name, found in answers.items():
                    expected = expected_logits(model, name, name, feeds, 1, device)
                    assert _difference(found, expected) <= TOLERANCES["fp32"], (name, shape)
