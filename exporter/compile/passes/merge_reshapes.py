"""Merge operators that only regroup the axes."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import SAME_ORDER
from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MergeReshapesPass"]


class MergeReshapesPass(NodeRewritePass):
    """Flatten, Reshape, Squeeze and Unsqueeze keep the elements' order, bit-exact.

    1. A Reshape to a constant target reads what such an operator before it reads. One that copies an axis with a zero still
       copies the same axis: the split into heads keeps the form by which attention is recognized.
    2. Two Unsqueezes become one.
    3. A Squeeze or Unsqueeze of a Reshape to a constant target, which nothing else reads, becomes part of the target.
    """

    op_types = SAME_ORDER
    repeats = True

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Merge an operator with the one that it reads."""
        inner = None if node.inputs[0] is None else node.inputs[0].producer()
        if inner is None or inner.op_type not in SAME_ORDER or inner.domain != "":
            return None
        merged = _merged(node, inner)
        if merged is None or isinstance(merged, Refusal):
            return merged
        operands, output = [inner.inputs[0], build.ints(merged)], node.outputs[0]
        if node.op_type == "Unsqueeze" and inner.op_type == "Unsqueeze":
            node.replace_input_with(0, operands[0])
            node.replace_input_with(1, operands[1])
            return output
        return build.node("Reshape", operands, shape=output.shape, dtype=output.dtype, hint=output.name)


def _merged(node: ir.Node, inner: ir.Node) -> list[int] | Refusal | None:
    """The target or the axes of both together."""
    if node.op_type == "Reshape":
        return _skipping(node, inner)
    axes = _axes(node)
    if axes is None:
        return None
    if node.op_type == "Unsqueeze" and inner.op_type == "Unsqueeze":
        first, rank = _axes(inner), len(node.outputs[0].shape or ())
        kept = [axis for axis in range(rank) if axis not in axes]
        return None if first is None else sorted({*axes, *(kept[axis] for axis in first)})  # rule 2
    target = _target(inner)
    if target is None:
        return None
    if len(inner.outputs[0].uses()) > 1:
        return Refusal(f"the result of the Reshape has {len(inner.outputs[0].uses())} readers", inner.outputs[0])
    if node.op_type == "Squeeze":  # rule 3
        changed = [number for axis, number in enumerate(target) if axis not in axes]
    else:
        changed = list(target)
        for axis in sorted(axes):
            changed.insert(axis, 1)
    # A zero copies the axis of its number.
    if all(changed[: axis + 1] == target[: axis + 1] for axis, number in enumerate(target) if number == 0):
        return changed
    return Refusal("an axis that the Reshape copies would be another one")


def _skipping(node: ir.Node, inner: ir.Node) -> list[int] | Refusal | None:  # rule 1
    target, before, between = _target(node), known_shape(inner.inputs[0]), known_shape(node.inputs[0])
    if target is None:
        return Refusal("the target of the Reshape is computed at run time")
    # A zero copies the axis of its number.
    copied = [axis for axis, number in enumerate(target) if number == 0]
    if copied and (before is None or between is None):
        return Refusal("the Reshape copies an axis of a shape that is not known")
    if all(before[axis : axis + 1] == between[axis : axis + 1] for axis in copied if before and between):
        return target
    return Refusal("an axis that the Reshape copies would be another one")


def _target(node: ir.Node) -> list[int] | None:
    array = const_array(node.inputs[1]) if node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0) else None
    return None if array is None else [int(number) for number in array]


def _axes(node: ir.Node) -> set[int] | None:
    """The axes that a Squeeze or Unsqueeze names, counted from the front of the longer shape."""
    array = const_array(node.inputs[1]) if node.op_type in ("Squeeze", "Unsqueeze") and len(node.inputs) > 1 else None
    longer = node.inputs[0] if node.op_type == "Squeeze" else node.outputs[0]
    if array is None or longer is None or longer.shape is None:
        return None
    return {int(axis) % len(longer.shape) for axis in array.reshape(-1)}
