"""Removes operators that change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import SAME_ORDER
from exporter.compile.rewrite.builder import const_array, known_shape

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
        # With at most one -1, all other lengths tell that one, too.
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
    column = None if indices is None else indices.producer()
    counted = None if column is None or column.op_type != "Unsqueeze" else column.inputs[0]
    count = None if counted is None else counted.producer()
    shape = known_shape(data)
    if count is None or count.op_type != "Range" or not shape or known_shape(updates) != shape:
        return False
    first, step = const_array(count.inputs[0]), const_array(count.inputs[2])
    if first is None or first.item() != 0 or step is None or step.item() != 1:
        return False
    return node.attributes.get_string("reduction", "none") == "none" and _length(count.inputs[1]) == shape[0]


def _length(value: ir.Value | None) -> int | ir.SymbolicDim | None:
    """The dimension that a scalar holds."""
    squeeze = None if value is None else value.producer()
    node = squeeze.inputs[0].producer() if squeeze is not None and squeeze.op_type == "Squeeze" and squeeze.inputs[0] else None
    dims = known_shape(node.inputs[0]) if node is not None and node.op_type == "Shape" else None
    if node is None or dims is None:
        return None
    asked = dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]
    return asked[0] if len(asked) == 1 else None


def _neutral(number: float) -> Callable[[ir.Node], bool]:
    def rule(node: ir.Node) -> bool:
        """x combined with a scalar that leaves it as it is; the scalar is the second operand, as torch.onnx writes it."""
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
    "Mul": _neutral(1.0),
    "Reshape": _reshapes_nothing,
    "ScatterND": _overwrites_all,
    "Slice": _takes_all,
    "Tile": _tiles_once,
    "Transpose": _keeps_order,
}
# Where the source is not the first input.
_SOURCE = {"ScatterND": 2}


def _source(node: ir.Node) -> ir.Value | None:
    """What the node's output is equal to."""
    if node.domain != "":
        return None
    rule, value = _RULES.get(node.op_type), node.inputs[_SOURCE.get(node.op_type, 0)] if node.inputs else None
    if rule is not None and value is not None and rule(node):
        return value
    # Operators that only name the axes anew, until the shape is that of before.
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


class RemoveNoOpsPass(ir.passes.InPlacePass):
    """Short-cuts each operator whose output is its input: Cast, Expand, Reshape, Slice, Tile, Transpose, times 1, plus 0; and
    what undoes others: Squeeze and Unsqueeze, Reshape and Reshape.

    The `adapters` library repeats q, k and v once for every parallel channel, also where there is one; until these operators
    are gone, ONNX Runtime recognises no attention.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            source = _source(node)
            if source is None:
                continue
            output = node.outputs[0]
            if output.is_graph_output():
                continue  # its name is part of the interface
            if source.dtype != output.dtype and output.dtype is not None:
                continue
            if known_shape(source) is None and known_shape(output) is not None:
                source.shape = output.shape
            output.replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
