"""Remove operators that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import SAME_ORDER
from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import counts_from_zero, measured_axes, producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["RemoveNoOpsPass"]


def _expands_nothing(node: ir.Node) -> bool:
    target = const_array(node.inputs[1])
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if target is not None and shape is not None and len(shape) >= target.size and bool((target == 1).all()):
        return True
    return _keeps_shape(node)


def _tiles_once(node: ir.Node) -> bool:
    repeats = const_array(node.inputs[1])
    return repeats is not None and bool((repeats == 1).all())


def _keeps_shape(node: ir.Node) -> bool:
    before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    return before is not None and before == after


def _reshapes_nothing(node: ir.Node) -> bool:
    target, before = const_array(node.inputs[1]), node.inputs[0].shape if node.inputs[0] is not None else None
    if target is not None and before is not None and target.size == len(before) and not node.attributes.get_int("allowzero", 0):
        # With at most one -1, the other lengths determine that one.
        known = all(number <= 0 or number == dim for number, dim in zip(target.tolist(), before, strict=True))
        if known and target.tolist().count(-1) <= 1:
            return True
    return _keeps_shape(node)


def _keeps_order(node: ir.Node) -> bool:
    order = list(node.attributes.get_ints("perm", ()))
    # An axis of length one may go anywhere.
    shape = known_shape(node.inputs[0]) if _keeps_shape(node) else None
    moved = [axis for axis in order if shape is None or shape[axis] != 1]
    return len(order) > 0 and moved == sorted(moved)


def _keeps_type(node: ir.Node) -> bool:
    value = node.inputs[0]
    return value is not None and value.dtype is not None and value.dtype == node.attributes.get_int("to", 0)


def _takes_all(node: ir.Node) -> bool:
    """As many elements as there are, or from the first to at least the last that an axis can have, in steps of one."""
    start, end = const_array(node.inputs[1]), const_array(node.inputs[2])
    steps = const_array(node.inputs[4]) if len(node.inputs) > 4 else np.array([1])
    if steps is not None and bool((steps > 0).all()) and _keeps_shape(node):
        return True
    if start is None or end is None or steps is None:
        return False
    return bool((start == 0).all() and (end >= np.iinfo(np.int32).max).all() and (steps == 1).all())


def _overwrites_all(node: ir.Node) -> bool:
    """Rows 0 to n - 1 of n are replaced, as slice_scatter writes it; the result is the third input."""
    data, indices, updates = node.inputs[:3]
    if known_shape(data) is None or known_shape(updates) != known_shape(data):
        return False
    return node.attributes.get_string("reduction", "none") == "none" and _counts_rows(indices, data)


def _gathers_all(node: ir.Node) -> bool:
    """Rows 0 to n - 1 of n are read, as in x[arange(batch), -1], after the last position was selected."""
    return node.attributes.get_int("batch_dims", 0) == 0 and _counts_rows(node.inputs[1], node.inputs[0])


def _counts_rows(indices: ir.Value | None, data: ir.Value | None) -> bool:
    """Whether indices [n, 1] are the numbers of all n rows of the data, in order."""
    shape, column = known_shape(data), producer(indices, "Unsqueeze")
    count = None if column is None or not counts_from_zero(column.inputs[0]) else producer(column.inputs[0], "Range")
    axes = None if column is None else const_array(column.inputs[1])
    if count is None or not shape or axes is None or axes.tolist() not in ([1], [-1]):
        return False
    return _length(count.inputs[1]) == shape[0]


def _length(value: ir.Value | None) -> int | ir.SymbolicDim | None:
    """The dimension that a scalar holds."""
    squeeze = producer(value, "Squeeze")
    node = None if squeeze is None else producer(squeeze.inputs[0], "Shape")
    dims = None if node is None else known_shape(node.inputs[0])
    if node is None or dims is None:
        return None
    axes = measured_axes(node, len(dims))
    return dims[axes[0]] if len(axes) == 1 else None


def _neutral(number: float) -> Callable[[ir.Node], bool]:
    def rule(node: ir.Node) -> bool:
        """Whether a scalar leaves x as it is; it is the second operand, as torch.onnx writes it."""
        array, shape = const_array(node.inputs[1]), known_shape(node.inputs[0])
        return (
            array is not None and array.size == 1 and shape is not None and array.ndim <= len(shape) and array.item() == number
        )

    return rule


_RULES: dict[str, Callable[[ir.Node], bool]] = {
    "Add": _neutral(0.0),
    "Cast": _keeps_type,
    "Div": _neutral(1.0),
    "Expand": _expands_nothing,
    "GatherND": _gathers_all,
    "Mul": _neutral(1.0),
    "Reshape": _reshapes_nothing,
    "ScatterND": _overwrites_all,
    "Slice": _takes_all,
    "Tile": _tiles_once,
    "Transpose": _keeps_order,
}
# Whether these change nothing depends on the numbers or the shape of a weight.
_OF_ONE_TASK = ("Add", "Div", "Mul", "Transpose")
# Where the source is not the first input.
_SOURCE = {"ScatterND": 2}


def _source(node: ir.Node) -> ir.Value | None:
    """The value that the node's output is equal to."""
    if node.domain != "":
        return None
    rule, value = _RULES.get(node.op_type), node.inputs[_SOURCE.get(node.op_type, 0)] if node.inputs else None
    if rule is not None and value is not None and rule(node):
        return value
    # Operators that only regroup the axes, until the shape is the one before them.
    shape = known_shape(node.outputs[0])
    while shape is not None and node.op_type in SAME_ORDER and node.domain == "":
        value = node.inputs[0]
        if value is None or known_shape(value) == shape:
            return value
        made = value.producer()
        if made is None:
            return None
        node = made
    return None


class RemoveNoOpsPass(NodeRewritePass):
    """An operator whose output is equal to its input is removed, bit-exact.

    Cast, Expand, GatherND, Reshape, Slice, Tile and Transpose that change nothing, times 1, plus 0; and what undoes others:
    Squeeze and Unsqueeze, Reshape and Reshape.

    The `adapters` library repeats q, k and v once for every parallel channel, also where there is one; until these operators
    are gone, ONNX Runtime recognises no attention.
    """

    op_types = frozenset({*_RULES, *SAME_ORDER})
    keeps_outputs = True

    def __init__(self, protected: Collection[str] = ()) -> None:
        """Set which initializers have other numbers, or another number of labels, in another task.

        Args:
            protected: names of task weights.
        """
        super().__init__()
        self.protected = frozenset(protected)

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        """Replace a result by the value that it is equal to."""
        if node.op_type in _OF_ONE_TASK and any(value is not None and value.name in self.protected for value in node.inputs):
            return None
        source, output = _source(node), node.outputs[0]
        if source is not None and source.dtype != output.dtype and output.dtype is not None:
            return Refusal(f"{source.name} has the same numbers and another type")
        return source
