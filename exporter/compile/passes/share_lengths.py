"""Read all lengths from the graph's inputs."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import counts_from_zero, measured_axes, producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["ShareLengthsPass"]


class ShareLengthsPass(NodeRewritePass):
    """Shape(x) becomes the lengths of the input axes that x's axes are named after, and a Gather of one of them its Squeeze.

    Bit-exact. Each length is then computed once, by CommonSubexpressionElimination, however many values it is read from, and no
    value is kept for its shape only. A Shape with an axis that is neither a number nor an input's stays.

    A Range that counts to a length gets it as its shape, which ONNX does not infer: of two equal Ranges,
    CommonSubexpressionElimination keeps the first, and torch may have annotated the other.
    """

    op_types = ("Gather", "Range", "Shape")

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a Shape, or a Gather of one length; annotate a Range."""
        if node.op_type == "Range":
            return _annotated(node)
        if node.op_type == "Gather":
            part = _one_of(node)
            return None if part is None else build.node("Squeeze", [part], shape=ir.Shape([]), dtype=part.dtype)
        dims = known_shape(node.inputs[0])
        if dims is None:
            return Refusal("the shape is not known", node.inputs[0])
        dims = tuple(dims[axis] for axis in measured_axes(node, len(dims)))
        sources = _axes_of_inputs(node)
        unknown = [dim for dim in dims if isinstance(dim, ir.SymbolicDim) and dim not in sources]
        if unknown:
            return Refusal(f"the length {unknown[0]} is not that of an input's axis", node.inputs[0])
        plain = {"start", "end"} <= node.attributes.keys() and len(dims) == 1
        if not dims or (plain and isinstance(dims[0], ir.SymbolicDim) and sources[dims[0]][0] is node.inputs[0]):
            return None
        parts = [build.ints([dim]) if isinstance(dim, int) else _length(*sources[dim], build) for dim in dims]
        if len(parts) == 1:
            return parts[0]
        return build.node("Concat", parts, attributes={"axis": 0}, shape=ir.Shape([len(parts)]), dtype=ir.DataType.INT64)


def _axes_of_inputs(node: ir.Node) -> dict[ir.SymbolicDim, tuple[ir.Value, int]]:
    """Length -> the first input of the graph that has it, and the axis."""
    assert node.graph is not None  # it is visited in one
    found: dict[ir.SymbolicDim, tuple[ir.Value, int]] = {}
    for value in node.graph.inputs:
        for axis, dim in enumerate(known_shape(value) or ()):
            if isinstance(dim, ir.SymbolicDim):
                found.setdefault(dim, (value, axis))
    return found


def _length(value: ir.Value, axis: int, build: Builder) -> ir.Value:
    span = {"start": axis, "end": axis + 1}
    return build.node("Shape", [value], attributes=span, shape=ir.Shape([1]), dtype=ir.DataType.INT64)


def _one_of(node: ir.Node) -> ir.Value | None:
    """The value [1] that a Gather of one number takes, from several that are joined or from itself."""
    index, source = const_array(node.inputs[1]), node.inputs[0]
    if index is None or index.ndim != 0 or source is None:
        return None
    joined = producer(source, "Concat")
    parts = [source] if joined is None else list(joined.inputs)
    if any(known_shape(value) != (1,) for value in parts) or not 0 <= int(index) < len(parts):
        return None
    return parts[int(index)]


def _annotated(count: ir.Node) -> ir.Value | None:
    """Give a Range over the positions of an axis the length of this axis, and return its result; None if it has it."""
    output, one = count.outputs[0], producer(count.inputs[1], "Squeeze")
    length = None if one is None else producer(one.inputs[0], "Shape")
    dims = None if length is None else known_shape(length.inputs[0])
    if length is None or dims is None or not counts_from_zero(output):
        return None
    shape = ir.Shape([dims[axis] for axis in measured_axes(length, len(dims))])
    if len(shape) != 1 or output.shape == shape:
        return None
    output.shape = shape
    return output
