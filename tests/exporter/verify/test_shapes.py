"""The shapes at which graphs are compared with PyTorch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from exporter.verify.shapes import shapes_of
from runtime.bundle import InputEntry

_TEXT = InputEntry("input_ids", "int64", ("batch", "sequence"), 10)
_IMAGE = InputEntry("pixel_values", "float32", ("batch", "3", "8", "8"), 0)


def plan(entry: InputEntry = _TEXT, tasks: int = 1, longest: int | None = None) -> Any:
    return SimpleNamespace(inputs=(entry,), tasks=range(tasks), max_lengths={} if longest is None else {"sequence": longest})


@pytest.mark.parametrize("longest", [2, 3, 5, 512, None])
def test_every_task_has_three_shapes(longest: int | None) -> None:
    shapes = shapes_of(plan(longest=longest))
    assert len(shapes) == len(set(shapes)) == 3
    assert (2, 7) not in shapes  # the traced one
    assert all(length <= (longest or length) for _, length in shapes)
    assert 1 in {batch for batch, _ in shapes}


def test_the_first_task_of_a_structure_has_more() -> None:
    assert shapes_of(plan(longest=512), of_structure=True)[::4] == [(1, 1), (1, 512)]
    assert shapes_of(plan(tasks=64, longest=512), of_structure=True)[-1] == (1, 32)
    assert shapes_of(plan(), of_structure=True)[-1] == (1, 128)
    assert shapes_of(plan(tasks=5000), of_structure=True)[-1] == (5, 4)  # one token more


def test_images_have_batches_only() -> None:
    assert shapes_of(plan(_IMAGE), of_structure=True) == [(1, 0), (3, 0), (5, 0)]
