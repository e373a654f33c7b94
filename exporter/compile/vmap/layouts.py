"""Where the task stands in the branch's batch axis, and the layout of all tasks for every row of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder

__all__ = ["Layout", "TaskLayout", "last_length"]


class Layout(Protocol):
    """How a value of the template becomes one of the branch. `value` and its shape are always the template's.

    Attributes:
        pads: whether task weights of different label counts are padded to one stack.
    """

    pads: bool

    def length(self, dim: ir.SymbolicDim) -> ir.SymbolicDim:
        """The length of the branch's batch axis where the template's is `dim`."""

    def can_enter(self, value: ir.Value, axis: int) -> bool:
        """Whether `enter` has a way; else the value must be computed again from its inputs."""

    def enter(self, value: ir.Value, axis: int, shape: ir.Shape | None) -> ir.Value:
        """A trunk value in the branch, with `axis` as its batch axis."""

    def lengths(self, lengths: ir.Value, axis: int, count: int, dim: int | ir.SymbolicDim) -> ir.Value:
        """`lengths` holds those of `count` axes of a trunk value, number `axis` the batch's, `dim`: the same in the branch."""

    def stack(self, arrays: Sequence[np.ndarray], name: str) -> ir.Value:
        """The tasks' weights of one shape as [tasks or rows, ...]."""

    def flatten(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """[tasks or rows, n, features] of a value whose batch is its first axis and whose last axis has a known length."""

    def unflatten(self, flat: ir.Value, value: ir.Value) -> ir.Value | None:
        """The way back where it takes no computed shape; None where the caller must reshape."""

    def must_reshape(self, value: ir.Value) -> bool:
        """Whether the way back takes a computed shape."""


class TaskLayout:
    """The batch axis is T times as long, task-major."""

    pads = False

    def __init__(self, build: Builder, tasks: int) -> None:
        """Lay out `tasks` tasks."""
        self._build = build
        self._tasks = tasks

    def length(self, dim: ir.SymbolicDim) -> ir.SymbolicDim:
        """Return the length of the branch's batch axis where the template's is `dim`."""
        return dim * self._tasks

    def can_enter(self, value: ir.Value, axis: int) -> bool:  # noqa: ARG002 - the signature is Layout's
        """Return whether `enter` has a way; otherwise the value must be computed again from its inputs."""
        return True

    def enter(self, value: ir.Value, axis: int, shape: ir.Shape | None) -> ir.Value:
        """Return a trunk value in the branch, with `axis` as its batch axis."""
        repeats = self._build.ints(self._tasks if i == axis else 1 for i in range(len(value.shape or ())))
        return self._build.node("Tile", [value, repeats], shape=shape, dtype=value.dtype, hint=f"{value.name}_tasks")

    def lengths(self, lengths: ir.Value, axis: int, count: int, dim: int | ir.SymbolicDim) -> ir.Value:  # noqa: ARG002 - as above
        """Return the lengths in the branch of a trunk value's `count` axes, number `axis` of which is the batch's."""
        factors = self._build.ints(self._tasks if i == axis else 1 for i in range(count))
        return self._build.node(
            "Mul", [lengths, factors], shape=lengths.shape, dtype=lengths.dtype, hint=f"{lengths.name}_folded"
        )

    def stack(self, arrays: Sequence[np.ndarray], name: str) -> ir.Value:
        """Return the tasks' weights of one shape as [tasks or rows, ...]."""
        return self._build.initializer(np.stack(arrays), name)

    def flatten(self, folded: ir.Value, value: ir.Value) -> ir.Value:
        """Return [tasks or rows, n, features] of a value whose first axis is the batch and whose last has a known length."""
        features = last_length(value)
        return self._build.node(
            "Reshape",
            [folded, self._build.ints([self._tasks, -1, features])],
            shape=ir.Shape([self._tasks, None, features]),
            dtype=value.dtype,
            hint=f"{value.name}_flat",
        )

    def unflatten(self, flat: ir.Value, value: ir.Value) -> ir.Value | None:  # noqa: ARG002 - the signature is Layout's
        """Return the folded form where that takes no computed shape; None where the caller must reshape."""
        return None

    def must_reshape(self, value: ir.Value) -> bool:  # noqa: ARG002 - the signature is Layout's
        """Return whether the way back takes a computed shape."""
        return True


def last_length(value: ir.Value) -> int:
    """Return the length of the last axis, which is known where a value can be stacked."""
    last = value.shape[-1] if value.shape is not None else None
    assert isinstance(last, int)  # can_stack
    return last
