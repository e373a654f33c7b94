"""Targets and precisions of the provider against single-task PyTorch on the device, at shapes that were not traced."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

import runtime
from exporter.targets import TOLERANCES
from tests.gpu.models import CASES, SHAPES, Exported, check_int8, difference, exported, routed_rows

pytestmark = pytest.mark.gpu

# Operators on lengths that ShapesOnDevice leaves: a boundary between the groups of a stem, and the shape of fusion members.
LENGTHS = {"unequal": 1, "fusion": 1}
KINDS = [("own", "fp32"), ("own", "fp16"), ("portable", "fp32"), ("portable", "fp16")]
Get = Callable[[str, str, str], Exported]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, device: str) -> Get:
    @functools.cache
    def get(case: str, target: str, precision: str) -> Exported:
        own = device if target == "own" else target
        folder = tmp_path_factory.mktemp("gpu") / case
        return exported(case, folder, device, "portable" if (own, precision) == ("cpu", "fp16") else own, precision)

    return get


@pytest.mark.parametrize(("target", "precision"), KINDS)
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_pytorch(bundles: Get, device: str, case: str, target: str, precision: str) -> None:
    bundle = bundles(case, target, precision)
    predictor = runtime.load(bundle.folder, provider=device)
    assert predictor.provider == device
    worst = 0.0
    for drop in predictor.drops:
        for shape in SHAPES:
            feeds = bundle.feeds(shape)
            answers = predictor.run(feeds, drop=drop)
            on_device = predictor.run_on_device(feeds, drop=drop)
            for task in predictor.tasks:
                expected = bundle.expected(task, feeds, drop)
                worst = max(worst, *(difference(found, expected) for found in (answers[task], on_device[task].numpy())))
    assert worst <= TOLERANCES[precision]


@pytest.mark.parametrize(("target", "precision"), KINDS)
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.routed])
def test_routed_rows_equal_those_of_pytorch(bundles: Get, device: str, case: str, target: str, precision: str) -> None:
    bundle = bundles(case, target, precision)
    predictor = runtime.load(bundle.folder, provider=device)
    for found, expected, row in routed_rows(bundle, predictor):
        scale = max(1.0, float(np.abs(expected).max()))
        assert float(np.abs(found - expected[row]).max()) / scale <= TOLERANCES[precision]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_lengths_are_left_to_the_cpu(bundles: Get, device: str, gpu: None, case: str, precision: str) -> None:
    predictor = runtime.load(bundles(case, "own", precision).folder, provider=device)
    for drop in predictor.drops:
        counts = predictor.node_counts(drop)
        assert counts.pop("cpu", 0) <= LENGTHS.get(case, 0)
        assert list(counts) == ["cuda"], counts


def test_int8_is_that_of_the_cpu(bundles: Get, device: str) -> None:
    """CUDA leaves most of its nodes to the CPU: "auto" does not take it for such a bundle, by name it is right."""
    bundle = bundles("bottlenecks", "portable", "int8")
    assert runtime.load(bundle.folder).provider == "cpu"
    check_int8(bundle, device)


def test_auto_takes_the_device(bundles: Get, device: str) -> None:
    for target, precision in (("own", "fp32"), ("portable", "fp16")):
        assert runtime.load(bundles("routed", target, precision).folder).provider == device
