"""Lengths that cannot be inferred from a tensor without rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from exporter.compile.rewrite.axis_rules import Dim
from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MeasureLengthsPass"]

_INT = ir.DataType.INT64


class MeasureLengthsPass(NodeRewritePass):
    """A Reshape to [0, 4, -1, 8] takes the unknown length from the axes of its input, bit-exact.

    Where no row selects a structure of a routed graph, its batch is empty. From no elements, ONNX Runtime cannot infer -1 next
    to an empty axis that is copied, and fails. The batch becomes the -1 instead, which also keeps ONNX Runtime's own
    optimizations from replacing the measured length by -1 again. Where a computed target moves the batch to another axis, its
    zero is a length, not an axis to copy.
    """

    op_types = ("Reshape",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Put the length in the place of -1."""
        x, target = node.inputs[0], const_array(node.inputs[1])
        if target is None:
            return self._take_zeros(node)
        dims = target.tolist()
        if x is None or dims[:1] != [0] or -1 not in dims:
            return None
        if x.shape is None:
            return Refusal("the rank of the input is not known")
        unknown = dims.index(-1)
        result = None if node.outputs[0].shape is None else node.outputs[0].shape[unknown]
        dims[0] = -1
        if isinstance(result, int):
            dims[unknown] = result
            node.replace_input_with(1, build.ints(dims))
            return node.outputs[0]
        inputs = [build.ints(dims[:unknown]), _length(x, result, dims, build)]
        if after_it := dims[unknown + 1 :]:
            inputs.append(build.ints(after_it))
        of_target = ir.Shape([len(dims)])
        node.replace_input_with(1, build.node("Concat", inputs, attributes={"axis": 0}, shape=of_target, dtype=_INT))
        return node.outputs[0]

    def _take_zeros(self, node: ir.Node) -> Rewritten:
        """Let a computed target mean its zeros, unless the batch stays first: a 0 there would copy another axis."""
        x, concat = node.inputs[0], node.inputs[1].producer() if node.inputs[1] is not None else None
        if x is None or concat is None or concat.op_type != "Concat" or node.attributes.get_int("allowzero", False):
            return None
        before, after = known_shape(x), known_shape(node.outputs[0])
        constants = [array for value in concat.inputs if (array := const_array(value)) is not None]
        if not before or not after or before[0] == after[0] or any((array <= 0).any() for array in constants):
            return None
        node.attributes.add(ir.AttrInt64("allowzero", 1))
        return node.outputs[0]


def _length(x: ir.Value, result: Dim | None, dims: Sequence[int], build: Builder) -> ir.Value:
    """The unknown length, [1]: that of an axis of the input, or the product of its axes by those of the target.

    The first axis is in neither product, because it may be empty, nor is any other that a 0 copies.
    """
    before = list(x.shape or ())
    if isinstance(result, ir.SymbolicDim) and result.value is not None and result in before:
        axis = before.index(result)
        return _measure(x, axis, axis + 1, build)
    left = [axis for axis in range(1, len(before)) if axis >= len(dims) or dims[axis] != 0]
    if not left:  # all others are copied
        return build.ints([1])
    lengths = _measure(x, 0, len(before), build)
    one = ir.Shape([1])
    own = build.node("Gather", [lengths, build.ints(left)], attributes={"axis": 0}, shape=ir.Shape([len(left)]), dtype=_INT)
    count = build.node("ReduceProd", [own, build.ints([0])], shape=one, dtype=_INT)
    others = math.prod(dim for dim in dims if dim > 0)
    return count if others == 1 else build.node("Div", [count, build.ints([others])], shape=one, dtype=_INT)


def _measure(x: ir.Value, start: int, end: int, build: Builder) -> ir.Value:
    return build.node("Shape", [x], attributes={"start": start, "end": end}, shape=ir.Shape([end - start]), dtype=_INT)
