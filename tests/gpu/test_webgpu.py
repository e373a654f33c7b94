"""The plug-in for WebGPU on a GPU, or on a software Vulkan (`make test-webgpu`), against single-task PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

import runtime
from exporter import export, task
from exporter.targets import TOLERANCES
from runtime.ort.devices import survey
from tests.gpu.models import CASES, SHAPES, Exported, bert, check_int8, difference, expected_logits, exported, routed_rows
from tests.helpers.added_tasks import TASKS, only
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
                assert difference(found, bundle.expected(name, feeds, drop)) <= TOLERANCES[precision], (name, drop, shape)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.routed])
def test_routed_rows_equal_pytorch(bundles: Get, case: str, precision: str) -> None:
    bundle = bundles(case, precision)
    predictor = runtime.load(bundle.folder, provider="webgpu")
    for found, expected, row in routed_rows(bundle, predictor):
        assert difference(found, expected[row]) <= TOLERANCES[precision]


def test_int8_is_that_of_the_cpu(bundles: Get) -> None:
    """By name only: WebGPU leaves most of such a graph to the CPU."""
    check_int8(bundles("bottlenecks", "int8"), "webgpu")


def test_states_and_added_tasks_equal_pytorch(device: str, tmp_path: Path) -> None:
    model = tiny_model(TASKS, bert()).to(device).eval()
    bundle = tmp_path / "onnx"
    export(only("topic", "mood", "tone", config=bert()), False, drop=1, output=bundle, slots=2, split=True)
    file = task(bundle, output=tmp_path / "spam.safetensors", model=only("spam", config=bert())).output
    predictor = runtime.load(bundle, provider="webgpu")
    predictor.add_task("spam", file)
    for shape in SHAPES:
        feeds = inputs(shape)
        states = predictor.run_trunk(feeds, 1)
        for names in (["spam"], ["tone", "topic"], ["topic", "mood", "tone", "spam"]):
            for answers in (predictor.run(feeds, names), predictor.run_branches(states, names)):
                assert list(answers) == names
                for name, found in answers.items():
                    expected = expected_logits(model, name, name, feeds, 1, device)
                    assert difference(found, expected) <= TOLERANCES["fp32"], (name, shape)
