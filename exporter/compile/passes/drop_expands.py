"""Remove Expands where broadcasting gives the same result."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import ELEMENTWISE
from exporter.compile.rewrite.builder import Builder, const_scalar, known_shape
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["DropExpandsPass"]


class DropExpandsPass(NodeRewritePass):
    """x takes the place of Expand(x) where broadcasting gives the same result, bit-exact.

    Element-wise operators that read only the Expand, each other and scalars give the same numbers on the small tensor. The
    Expand is removed if each path from it ends in an element-wise operator whose other operand has the output's full shape: an
    attention mask [batch, 1, sequence, sequence] then stays [batch, 1, 1, sequence] until it meets the scores.
    """

    op_types = ("Expand",)
    keeps_outputs = True

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        """Replace an Expand by its input."""
        source, output = node.inputs[0], node.outputs[0]
        shape = known_shape(source)
        if source is None or shape is None or known_shape(output) is None:
            return Refusal(f"the shape of the {'input' if shape is None else 'result'} is not known")
        small = _values_that_may_shrink(node)
        if isinstance(small, Refusal):
            return small
        for value in small - {output}:
            value.shape = ir.Shape(shape)
        return source


def _values_that_may_shrink(expand: ir.Node) -> set[ir.Value] | Refusal:
    """The Expand's output and what is computed element-wise from it only."""
    small = {expand.outputs[0]}
    shape = known_shape(expand.inputs[0])
    assert expand.graph is not None
    for node in expand.graph:
        if not any(value in small for value in node.inputs):
            continue
        output = node.outputs[0]
        if node.op_type not in ELEMENTWISE or node.domain != "":
            return Refusal(f"{node.op_type} reads the full shape", node.outputs[0])
        others = [value for value in node.inputs if value is not None and value not in small and const_scalar(value) is None]
        if not others and not output.is_graph_output():
            if any(
                len(value.shape or ()) > len(shape or ()) for value in node.inputs if value is not None and value not in small
            ):
                return Refusal("a scalar of higher rank adds an axis", output)
            small.add(output)
        elif not _as_wide([shape, *map(known_shape, others)], known_shape(output)):
            return Refusal(f"no other operand of {node.op_type} has the full shape", output)
    return small


def _as_wide(operands: list[tuple[int | ir.SymbolicDim, ...] | None], result: tuple[int | ir.SymbolicDim, ...] | None) -> bool:
    """Whether the operands are broadcast to the result's shape."""
    if result is None or None in operands:
        return False
    return all(
        dim == 1 or any(shape[-axis] == dim for shape in operands if shape is not None and len(shape) >= axis)
        for axis, dim in zip(range(len(result), 0, -1), result, strict=True)
    )
