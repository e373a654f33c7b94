"""Gives Reshape constant targets."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, static_target

__all__ = ["StaticReshapesPass"]


class StaticReshapesPass(ir.passes.InPlacePass):
    """Replaces computed Reshape targets by constants such as [0, 0, 12, 64], bit-exact.

    The symbolic shapes of input and output tell which axes are copied. The arithmetic that computed the target is then dead,
    and a constant target holds at any batch size, which is what the vectoriser wants.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type != "Reshape" or node.domain != "" or const_array(node.inputs[1]) is not None:
                continue
            before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
            target = None if before is None or after is None else static_target(before, after)
            if target is None:
                continue
            node.replace_input_with(1, build.ints(target))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
