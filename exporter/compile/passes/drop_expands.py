"""Removes an Expand that broadcasting does anyway."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import ELEMENTWISE
from exporter.compile.rewrite.builder import const_scalar, known_shape, refuse_subgraphs

__all__ = ["DropExpandsPass"]


class DropExpandsPass(ir.passes.InPlacePass):
    """Lets x take the place of Expand(x) where no one can tell, bit-exact.

    From the Expand on, elementwise operators among its own results and scalars work on the small tensor as well as on the big
    one. The Expand goes if each path ends in an elementwise operator whose other operand has the output's full shape already:
    an attention mask [batch, 1, sequence, sequence] then stays [batch, 1, 1, sequence] until it meets the scores.
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Expand" and node.domain == "" and self._drop(node):
                model.graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _drop(self, expand: ir.Node) -> bool:
        source, output = expand.inputs[0], expand.outputs[0]
        shape = known_shape(source)
        if source is None or shape is None or known_shape(output) is None or output.is_graph_output():
            return False
        small = _values_that_may_shrink(expand)
        if small is None:
            return False
        output.replace_all_uses_with(source)
        for value in small - {output}:
            value.shape = ir.Shape(shape)
        return True


def _values_that_may_shrink(expand: ir.Node) -> set[ir.Value] | None:
    """The Expand's output and what is computed elementwise from it alone; None where the full shape is needed after all."""
    small = {expand.outputs[0]}
    shape = known_shape(expand.inputs[0])
    assert expand.graph is not None
    for node in expand.graph:
        if not any(value in small for value in node.inputs):
            continue
        output = node.outputs[0]
        if node.op_type not in ELEMENTWISE or node.domain != "":
            return None
        others = [value for value in node.inputs if value is not None and value not in small and const_scalar(value) is None]
        if not others and not output.is_graph_output():
            if any(
                len(value.shape or ()) > len(shape or ()) for value in node.inputs if value is not None and value not in small
            ):
                return None  # a scalar of higher rank
            small.add(output)
        elif not _as_wide([shape, *map(known_shape, others)], known_shape(output)):
            return None
    return small


def _as_wide(operands: list[tuple[int | ir.SymbolicDim, ...] | None], result: tuple[int | ir.SymbolicDim, ...] | None) -> bool:
    """Whether the operands are broadcast to the result's shape."""
    if result is None or None in operands:
        return False
    return all(
        dim == 1 or any(shape[-axis] == dim for shape in operands if shape is not None and len(shape) >= axis)
        for axis, dim in zip(range(len(result), 0, -1), result, strict=True)
    )
