"""Make the targets of Reshapes constant."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, static_target
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["StaticReshapesPass"]


class StaticReshapesPass(NodeRewritePass):
    """A computed target of Reshape becomes a constant such as [0, 0, 12, 64], bit-exact.

    The symbolic shapes of input and output show which axes are copied. The arithmetic that computed the target is then dead,
    and a constant target holds at any batch size, as the vectoriser needs it.
    """

    op_types = ("Reshape",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Give a Reshape a constant target."""
        if const_array(node.inputs[1]) is not None:
            return None
        before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
        if before is None or after is None:
            return Refusal(f"the shape of the {'input' if before is None else 'result'} is not known")
        target = static_target(before, after)
        if target is None:
            return Refusal("more than one axis of the result is neither a number nor an axis of the input")
        node.replace_input_with(1, build.ints(target))
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        return node.outputs[0]
