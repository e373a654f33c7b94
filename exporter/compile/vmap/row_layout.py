"""The layout in which each row selects an input row and a task."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder
from exporter.compile.vmap.layouts import last_length

__all__ = ["RowLayout"]


class RowLayout:
    """The batch axis counts rows: row i is input row row_ids[i], computed for task task_ids[i].

    Trunk values and stacks of task weights are gathered row by row. No Reshape has -1 next to the number of rows: ONNX Runtime
    refuses that for zero rows, and a group of tasks may have zero rows.
    """

    pads = True

    def __init__(
        self, build: Builder, batch_input: ir.Value, batch: str, rows: str, row_ids: ir.Value, task_ids: ir.Value
    ) -> None:
        """Set the inputs that select rows and tasks.

        Args:
            build: makes nodes and weights.
            batch_input: a graph input whose first axis is the batch.
            batch: the name of that axis.
            rows: the name of the branch's batch axis.
            row_ids: int64 [rows], the input row of each row.
            task_ids: int64 [rows], the task of each row, by its number in the stacks.
        """
        self.row_ids = row_ids
        self.task_ids = task_ids
        self._build = build
        self._batch_input = batch_input
        self._batch = batch
        self._rows = rows
        self._made: dict[str, ir.Value] = {}

    def length(self, dim: ir.SymbolicDim) -> ir.SymbolicDim:
        """Return the length of the branch's batch axis if that of the template is `dim`."""
        return ir.SymbolicDim(re.sub(rf"\b{re.escape(self._batch)}\b", self._rows, str(dim.value)))

    def can_enter(self, value: ir.Value, axis: int) -> bool:
        """Return whether `enter` is possible; otherwise the value must be computed again from its inputs."""
        return self._plain(value, axis)

    def enter(self, value: ir.Value, axis: int, shape: ir.Shape | None) -> ir.Value:
        """Convert a trunk value, whose batch axis is `axis`, to the branch's batch."""
        return self._build.node(
            "Gather",
            [value, self.row_ids],
            attributes={"axis": axis},
            shape=shape,
            dtype=value.dtype,
            hint=f"{value.name}_rows",
        )

    def lengths(self, lengths: ir.Value, axis: int, count: int, dim: int | ir.SymbolicDim) -> ir.Value:
        """Convert lengths of `count` axes of a trunk value; `axis` is the position of the batch among them."""
        if count == 1 and isinstance(dim, ir.SymbolicDim) and dim.value == self._batch:
            return self._length("rows", self.row_ids)
        # The axis may be a multiple of the batch: old x rows / batch.
        rows, batch = self._length("rows", self.row_ids), self._length("batch", self._batch_input)
        value = self._build.node("Mul", [lengths, rows], shape=lengths.shape, dtype=lengths.dtype)
        value = self._build.node("Div", [value, batch], shape=lengths.shape, dtype=lengths.dtype)
        inputs = [self._build.constant(np.arange(count) == axis), value, lengths]
        return self._build.node("Where", inputs, shape=lengths.shape, dtype=lengths.dtype, hint=f"{lengths.name}_folded")

    def stack(self, arrays: Sequence[np.ndarray], name: str) -> ir.Value:
        """Stack the tasks' weights, which have one shape, as [tasks or rows, ...]."""
        weights = self._build.initializer(np.stack(arrays), name)
        return self._build.node(
            "Gather",
            [weights, self.task_ids],
            attributes={"axis": 0},
            shape=ir.Shape([self._rows, *arrays[0].shape]),
            dtype=weights.dtype,
            hint=f"{name}_rows",
        )

    def flatten(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """Convert a folded value with the batch first and a known last length to [tasks or rows, n, features]."""
        dims = list(value.shape or ())
        hint = f"{value.name}_flat"
        if self._plain(value, 0) and len(dims) == 3:
            return folded
        shape = ir.Shape([self._rows, None, last_length(value)])
        middle = [dim for dim in dims[1:-1] if isinstance(dim, int)]
        known = len(middle) == len(dims) - 2
        if self._plain(value, 0) and known:
            shape = ir.Shape([self._rows, math.prod(middle), last_length(value)])
        if self._plain(value, 0) and len(dims) == 2:
            axis = self._build.ints([1])
            return self._build.node("Unsqueeze", [folded, axis], shape=shape, dtype=value.dtype, hint=hint)
        if self._plain(value, 0) and known:
            target = self._build.ints([0, math.prod(middle), last_length(value)])
        else:
            ends = (self._length("rows", self.row_ids), self._build.ints([last_length(value)]))
            parts = [ends[0], self._middle(folded, value), ends[1]]
            target = self._build.node(
                "Concat", parts, attributes={"axis": 0}, shape=ir.Shape([3]), dtype=ir.DataType.INT64, hint=f"{hint}_shape"
            )
        return self._build.node("Reshape", [folded, target], shape=shape, dtype=value.dtype, hint=hint)

    def _middle(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """Return n of [rows, n, features], [1], also for zero rows."""
        int64, one, first = ir.DataType.INT64, ir.Shape([1]), int(self._plain(value, 0))
        span = {"start": first, "end": len(value.shape or ()) - 1}
        lengths = self._build.node("Shape", [folded], attributes=span, shape=ir.Shape([span["end"] - first]), dtype=int64)
        count = self._build.node("ReduceProd", [lengths, self._build.ints([0])], shape=one, dtype=int64)
        if first:
            return count
        rows = self._build.node("Max", [self._length("rows", self.row_ids), self._build.ints([1])], shape=one, dtype=int64)
        return self._build.node("Div", [count, rows], shape=one, dtype=int64)

    def unflatten(self, flat: ir.Value, value: ir.Value) -> ir.Value | None:
        """Convert the result of `flatten` back to the folded form; None if the caller must reshape it."""
        if self.must_reshape(value):
            return None
        if len(value.shape or ()) == 3:
            return flat
        shape = ir.Shape([self._rows, flat.shape[2] if flat.shape is not None else None])
        return self._build.node("Squeeze", [flat, self._build.ints([1])], shape=shape, dtype=value.dtype, hint=value.name)

    def must_reshape(self, value: ir.Value) -> bool:
        """Return whether the way back to the folded form needs a Reshape to a computed shape."""
        return not self._plain(value, 0) or len(value.shape or ()) not in (2, 3)

    def _plain(self, value: ir.Value, axis: int) -> bool:
        """Return whether the axis is the batch itself, not a multiple of it."""
        dim = value.shape[axis] if value.shape is not None and len(value.shape) > axis else None
        return isinstance(dim, ir.SymbolicDim) and dim.value == self._batch

    def _length(self, name: str, value: ir.Value) -> ir.Value:
        """Return the length of a value's first axis, [1]."""
        if name not in self._made:
            self._made[name] = self._build.node(
                "Shape",
                [value],
                attributes={"start": 0, "end": 1},
                shape=ir.Shape([1]),
                dtype=ir.DataType.INT64,
                hint=f"{name}_length",
            )
        return self._made[name]
