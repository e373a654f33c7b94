"""Removes operators that change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ._build import const_array, known_shape

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


def _keeps_order(node: ir.Node) -> bool:
    order = node.attributes.get_ints("perm", ())
    return len(order) > 0 and list(order) == list(range(len(order)))


def _keeps_type(node: ir.Node) -> bool:
    value = node.inputs[0]
    return value is not None and value.dtype is not None and value.dtype == node.attributes.get_int("to", 0)


def _takes_all(node: ir.Node) -> bool:
    """From the first element to at least the last that an axis can have, in steps of one."""
    start, end = const_array(node.inputs[1]), const_array(node.inputs[2])
    steps = const_array(node.inputs[4]) if len(node.inputs) > 4 else np.array([1])
    if start is None or end is None or steps is None:
        return False
    return bool((start == 0).all() and (end >= np.iinfo(np.int32).max).all() and (steps == 1).all())


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
    "Reshape": _keeps_shape,
    "Slice": _takes_all,
    "Tile": _tiles_once,
    "Transpose": _keeps_order,
}


class RemoveNoOpsPass(ir.passes.InPlacePass):
    """Short-cuts each operator whose output is its input: Cast, Expand, Reshape, Slice, Tile, Transpose, times 1, plus 0.

    The `adapters` library repeats q, k and v once for every parallel channel, also where there is one; until these operators
    are gone, ONNX Runtime recognises no attention.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            rule = _RULES.get(node.op_type) if node.domain == "" else None
            source = node.inputs[0] if rule else None
            if rule is None or source is None or not rule(node):
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
