"""The position of the task in the branch's batch axis: the interface, and the layout of every task for every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder

__all__ = ["Layout", "TaskLayout", "last_length"]


class Layout(Protocol):
    """Conversion of values of the template to values of the branch. `value` and its shape are always the template's.

    Attributes:
        pads: whether task weights of different label counts are padded to one stack.
    """

    pads: bool

    def length(self, dim: ir.SymbolicDim) -> ir.SymbolicDim:
        """Return the length of the branch's batch axis if that of the template is `dim`."""

    def can_enter(self, value: ir.Value, axis: int) -> bool:
        """Return whether `enter` is possible; otherwise the value must be computed again from its inputs."""

    def enter(self, value: ir.Value, axis: int, shape: ir.Shape | None) -> ir.Value:
        """Convert a trunk value, whose batch axis is `axis`, to the branch's batch."""

    def lengths(self, lengths: ir.Value, axis: int, count: int, dim: int | ir.SymbolicDim) -> ir.Value:
        """Convert lengths of a trunk value to the branch's batch.

        Args:
            lengths: the lengths of `count` consecutive axes.
            axis: the position of the batch axis among them.
            count: the number of lengths.
            dim: the length of the batch axis in the trunk.
        """

    def stack(self, arrays: Sequence[np.ndarray], name: str) -> ir.Value:
        """Stack the tasks' weights, which have one shape, as [tasks or rows, ...]."""

    def flatten(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """Convert a folded value with the batch first and a known last length to [tasks or rows, n, features]."""

    def unflatten(self, flat: ir.Value, value: ir.Value) -> ir.Value | None:
        """Convert the result of `flatten` back to the folded form; None if the caller must reshape it."""

    def must_reshape(self, value: ir.Value) -> bool:
        """Return whether the way back to the folded form needs a Reshape to a computed shape."""


class TaskLayout:
    """The batch axis is T times as long, task-major."""

    pads = False

    def __init__(self, build: Builder, tasks: int) -> None:
        """Set the number of tasks."""
        self._build = build
        self._tasks = tasks

    def length(self, dim: ir.SymbolicDim) -> ir.SymbolicDim:
        """Return the length of the branch's batch axis if that of the template is `dim`."""
        return dim * self._tasks

    def can_enter(self, value: ir.Value, axis: int) -> bool:  # noqa: ARG002 - the signature is Layout's
        """Return whether `enter` is possible; otherwise the value must be computed again from its inputs."""
        return True

    def enter(self, value: ir.Value, axis: int, shape: ir.Shape | None) -> ir.Value:
        """Convert a trunk value, whose batch axis is `axis`, to the branch's batch."""
        repeats = self._build.ints(self._tasks if i == axis else 1 for i in range(len(value.shape or ())))
        return self._build.node("Tile", [value, repeats], shape=shape, dtype=value.dtype, hint=f"{value.name}_tasks")

    def lengths(self, lengths: ir.Value, axis: int, count: int, dim: int | ir.SymbolicDim) -> ir.Value:  # noqa: ARG002 - as above
        """Convert lengths of `count` axes of a trunk value; `axis` is the position of the batch among them."""
        factors = self._build.ints(self._tasks if i == axis else 1 for i in range(count))
        return self._build.node(
            "Mul", [lengths, factors], shape=lengths.shape, dtype=lengths.dtype, hint=f"{lengths.name}_folded"
        )

    def stack(self, arrays: Sequence[np.ndarray], name: str) -> ir.Value:
        """Stack the tasks' weights, which have one shape, as [tasks or rows, ...]."""
        return self._build.initializer(np.stack(arrays), name)

    def flatten(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """Convert a folded value with the batch first and a known last length to [tasks or rows, n, features]."""
        features = last_length(value)
        return self._build.node(
            "Reshape",
            [folded, self._build.ints([self._tasks, -1, features])],
            shape=ir.Shape([self._tasks, None, features]),
            dtype=value.dtype,
            hint=f"{value.name}_flat",
        )

    def unflatten(self, flat: ir.Value, value: ir.Value) -> ir.Value | None:  # noqa: ARG002 - the signature is Layout's
        """Convert the result of `flatten` back to the folded form; None if the caller must reshape it."""
        return None

    def must_reshape(self, value: ir.Value) -> bool:  # noqa: ARG002 - the signature is Layout's
        """Return whether the way back to the folded form needs a Reshape to a computed shape."""
        return True


def last_length(value: ir.Value) -> int:
    """Return the length of the last axis, which is known if a value can be stacked."""
    last = value.shape[-1] if value.shape is not None else None
    assert isinstance(last, int)  # can_stack
    return last
