"""The batch axis of the template: which axis of a value it is, and which operators treat its rows independently."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from enum import Enum

import onnx_ir as ir

from exporter.compile.rewrite.axes import OPERATORS, SAME_ORDER, block_sources

__all__ = ["Batch", "Use", "uses_of_inputs"]


class Use(Enum):
    """How a folded operator uses an input."""

    FOLDED = "row by row, at the branch's batch"
    WHOLE = "as it is in the trunk: any row of the result may read all of it"
    LENGTHS = "as lengths of the result, which differ at the branch's batch"


class Batch:
    """The batch axis, identified by the name of its length."""

    def __init__(self, name: str, inputs: Collection[ir.Value]) -> None:
        """Set the name of the batch axis.

        Args:
            name: the name of the batch axis.
            inputs: the inputs of the graph; only the names of their axes have a known meaning.
        """
        self.name = name
        self._names = {name}.union(*(_symbols(dim) for value in inputs for dim in value.shape or ()))

    def axis(self, value: ir.Value | None) -> int | None:
        """Return the axis whose length is the batch or a multiple of it.

        None if no length or several lengths depend on the batch, or if one depends on it in another way (batch + 1).
        """
        if value is None or value.shape is None:
            return None
        axes = [axis for axis, dim in enumerate(value.shape) if self.name in _symbols(dim)]
        return axes[0] if len(axes) == 1 and self._is_multiple(value.shape[axes[0]]) else None

    def _is_multiple(self, dim: int | ir.SymbolicDim) -> bool:
        if not isinstance(dim, ir.SymbolicDim):
            return False
        return dim.value == self.name or self.name not in _symbols((dim / ir.SymbolicDim(self.name)).simplify())

    def is_fixed(self, dim: int | ir.SymbolicDim) -> bool:
        """Return whether a length is known not to depend on the batch; a name that no input has may depend on it."""
        if isinstance(dim, int):
            return True
        return dim.value is not None and _symbols(dim) <= self._names - {self.name}


def _symbols(dim: int | ir.SymbolicDim) -> frozenset[str]:
    return frozenset() if isinstance(dim, int) or dim.value is None else frozenset(dim.free_symbols())


def uses_of_inputs(
    node: ir.Node,
    batch: Batch,
    branch: Container[ir.Value],
    can_derive: Callable[[ir.Value], bool],
    replaced: Container[ir.Value] = (),
) -> list[Use] | None:
    """Return how an operator uses its inputs if it treats the rows of the batch independently, wherever they stand.

    Such an operator can run at another batch: on the rows of all tasks one after another, or on rows in any order.

    1. All results have the batch along the same axis.
    2. Inputs that vary along this axis have the batch there, with the same length; a Reshape may merge the batch with the axes
       inside it, or split it from them.
    3. An input that is read whole is not a value of the branch, because those differ between tasks.
    4. Lengths of the result can be computed again, and only one of them depends on the batch.

    Args:
        node: an operator of the template.
        batch: the batch axis of the template.
        branch: values that depend on a task weight.
        can_derive: returns whether lengths can be computed again.
        replaced: inputs that the caller replaces with values that hold for all rows or vary row by row.

    Returns:
        The use of each input; None if rows may mix.
    """
    axis = batch.axis(node.outputs[0])
    if axis is None or any(batch.axis(output) != axis for output in node.outputs):  # rule 1
        return None
    length = _length(node.outputs[0], axis)
    found = block_sources(node, axis)
    if found is None or any(_length(output, axis) != length for output in node.outputs):
        return None
    sizes = OPERATORS[node.op_type].sizes
    uses = []
    for index, (value, source) in enumerate(zip(node.inputs, found, strict=True)):
        if value is None or value in replaced:
            if source is not None:
                return None
            uses.append(Use.WHOLE)
        elif index == sizes:  # rule 4
            others = [dim for i, dim in enumerate(node.outputs[0].shape or ()) if i != axis]
            if not can_derive(value) or not (value.const_value is not None or all(map(batch.is_fixed, others))):
                return None
            uses.append(Use.LENGTHS)
        elif source is None:  # rule 3
            if value in branch:
                return None
            uses.append(Use.WHOLE)
        elif batch.axis(value) == source and (_length(value, source) == length or node.op_type in SAME_ORDER):  # rule 2
            uses.append(Use.FOLDED)
        else:
            return None
    return uses


def _length(value: ir.Value, axis: int) -> int | ir.SymbolicDim | None:
    return None if value.shape is None else value.shape[axis]
