"""Rows: the positions of one axis of a value that are read, and the operators that select them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.rewrite.match import counts_from_zero

__all__ = ["Each", "Range", "Rows", "Single", "at", "positions", "take", "union", "within"]

_END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Range:
    """start, start + step, … before stop, as Slice counts: negative numbers from the end, large ones to the end."""

    start: int
    stop: int
    step: int = 1


@dataclass(frozen=True)
class Single:
    """One position that is only known at run time, in `index`, int64 [] or [1]."""

    index: ir.Value


@dataclass(frozen=True)
class Each:
    """A position for each position of axis 0, only known at run time, in `index`, int64 [batch]."""

    index: ir.Value


@dataclass(frozen=True)
class Rows:
    """Positions of one axis that are read.

    Attributes:
        axis: the axis of the value.
        which: a range; a list of positions, all counted from 0 or all negative; or a position that is only known at run time.
        count: the number of positions.
        lacks: with `Each`, for a value whose axis 0 is not the batch: how many axes fewer than its reader's result it has.
    """

    axis: int
    which: Range | Single | Each | tuple[int, ...]
    count: int | ir.SymbolicDim
    lacks: int | None = None

    def along(self, axis: int) -> Rows:
        """Return the same positions of another axis."""
        return replace(self, axis=axis)

    def narrow(self, shape: Sequence[int | ir.SymbolicDim]) -> ir.Shape:
        """Return the shape of the rows of a value with that shape."""
        return ir.Shape([self.count if axis == self.axis else dim for axis, dim in enumerate(shape)])


def at(axis: int, listed: Iterable[int]) -> Rows | None:
    """Return rows at constant positions; None if the list is empty, repeats a position or mixes both directions of counting."""
    found = tuple(listed)
    if not found or len(set(found)) != len(found) or len({index < 0 for index in found}) != 1:
        return None
    if found == tuple(range(found[0], found[0] + len(found))):
        return Rows(axis, Range(found[0], found[-1] + 1 or _END), len(found))
    return Rows(axis, found, len(found))


def positions(rows: Rows) -> tuple[int, ...] | None:
    """Return the positions if they are numbers that hold for every length of the axis; None otherwise."""
    if isinstance(rows.which, tuple):
        return rows.which
    if not isinstance(rows.which, Range) or not isinstance(rows.count, int):
        return None
    start, stop, step = rows.which.start, rows.which.stop, rows.which.step
    found = tuple(start + number * step for number in range(rows.count))
    # A range that begins before the axis has fewer positions than it says.
    whole = start >= 0 or len(range(start, 0 if stop == _END else stop, step)) == rows.count
    return found if whole and len({index < 0 for index in found}) == 1 else None


def union(several: Sequence[Rows]) -> Rows | None:
    """Return all of the rows, in ascending order; None if they are not known or belong to different axes."""
    listed = [positions(rows) for rows in several]
    if len({rows.axis for rows in several}) != 1 or any(found is None for found in listed):
        return None
    return at(several[0].axis, sorted({index for found in listed if found is not None for index in found}))


def within(rows: Rows, held: Rows) -> Rows:
    """Return the rows as positions among the rows `held`, which contain them."""
    wanted, kept = positions(rows), positions(held)
    assert wanted is not None  # a union is one of known positions
    assert kept is not None
    found = at(rows.axis, (kept.index(index) for index in wanted))
    assert found is not None
    return found


def take(build: Builder, value: ir.Value, rows: Rows) -> ir.Value:
    """Make the operators that select the rows of a value, and return their result."""
    shape = known_shape(value)
    assert shape is not None  # required_rows
    hint, narrow = f"{value.name}_row", rows.narrow(shape)
    if (listed := positions(rows)) is not None and listed[0] >= 0 and counts_from_zero(value):
        return build.ints(listed)
    if isinstance(rows.which, Each):
        return _take_each(build, value, rows, rows.which.index, shape)
    if isinstance(rows.which, Range):
        inputs = [value, *(build.ints([number]) for number in (rows.which.start, rows.which.stop, rows.axis))]
        if rows.which.step != 1:
            inputs.append(build.ints([rows.which.step]))
        return build.node("Slice", inputs, shape=narrow, dtype=value.dtype, hint=hint)
    if isinstance(rows.which, Single):
        index = rows.which.index
        if len(index.shape or ()) == 0:
            index = build.node("Unsqueeze", [index, build.ints([0])], shape=ir.Shape([1]), dtype=index.dtype)
    else:
        index = build.ints(rows.which)
    return build.node("Gather", [value, index], attributes={"axis": rows.axis}, shape=narrow, dtype=value.dtype, hint=hint)


def _take_each(
    build: Builder, value: ir.Value, rows: Rows, index: ir.Value, shape: tuple[int | ir.SymbolicDim, ...]
) -> ir.Value:
    if rows.lacks is not None:
        return _take_for_each(build, value, rows, index, shape)
    # GatherND counts the batch and then one axis: the row's comes second.
    order = [0, rows.axis, *(axis for axis in range(1, len(shape)) if axis != rows.axis)]
    moved = _turn(build, value, order)
    lengths = index.shape
    assert lengths is not None  # selected_rows
    column = build.node("Unsqueeze", [index, build.ints([1, 2])], shape=ir.Shape([lengths[0], 1, 1]), dtype=index.dtype)
    found = build.node(
        "GatherND",
        [moved, column],
        attributes={"batch_dims": 1},
        shape=ir.Shape([shape[0], 1, *(shape[axis] for axis in order[2:])]),
        dtype=value.dtype,
        hint=f"{value.name}_row",
    )
    return _turn(build, found, [order.index(axis) for axis in range(len(order))])


def _take_for_each(
    build: Builder, value: ir.Value, rows: Rows, index: ir.Value, shape: tuple[int | ir.SymbolicDim, ...]
) -> ir.Value:
    """[1, heads, rows, …] at positions [batch] becomes [batch, heads, 1, …]."""
    assert index.shape is not None  # selected_rows
    assert rows.lacks is not None
    dims = [index.shape[0] if axis == rows.axis else dim for axis, dim in enumerate(shape)]
    inputs, hint = [value, index], f"{value.name}_rows"
    found = build.node("Gather", inputs, attributes={"axis": rows.axis}, shape=ir.Shape(dims), dtype=value.dtype, hint=hint)
    if rows.lacks == 0:  # The first axis has one position: it takes the row's place.
        order = list(range(len(shape)))
        order[0], order[rows.axis] = rows.axis, 0
        return _turn(build, found, order)
    found = _turn(build, found, [rows.axis, *(axis for axis in range(len(shape)) if axis != rows.axis)])
    assert found.shape is not None  # made above
    axes = [*range(1, rows.lacks), rows.axis + rows.lacks]
    dims = list(found.shape)
    for axis in axes:
        dims.insert(axis, 1)
    return build.node("Unsqueeze", [found, build.ints(axes)], shape=ir.Shape(dims), dtype=value.dtype)


def _turn(build: Builder, value: ir.Value, order: list[int]) -> ir.Value:
    if order == sorted(order):
        return value
    assert value.shape is not None
    shape = ir.Shape([value.shape[axis] for axis in order])
    return build.node("Transpose", [value], attributes={"perm": order}, shape=shape, dtype=value.dtype)
