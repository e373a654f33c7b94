"""Lengths that cannot be inferred from a tensor without rows."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MeasureLengthsPass"]

_INT = ir.DataType.INT64


class MeasureLengthsPass(NodeRewritePass):
    """A Reshape to [0, 4, -1, 8] takes the unknown length from its input, bit-exact.

    Where no row selects a structure of a routed graph, its batch is empty. From no elements, ONNX Runtime cannot infer -1 next
    to an empty axis that is copied, and fails. The batch becomes the -1 instead, which also keeps ONNX Runtime's own
    optimizations from replacing the measured length by -1 again.
    """

    op_types = ("Reshape",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Put the length of an input's axis in the place of -1."""
        x, target = node.inputs[0], const_array(node.inputs[1])
        dims = [] if target is None else target.tolist()
        if x is None or dims[:1] != [0] or -1 not in dims:
            return None
        before, after = known_shape(x), known_shape(node.outputs[0])
        if before is None or after is None:
            return Refusal(f"the shape of the {'input' if before is None else 'result'} is not known")
        unknown = dims.index(-1)
        if after[unknown] not in before:
            return Refusal(f"the length {after[unknown]} is not one of the input")
        axis = before.index(after[unknown])
        of_one, of_target = ir.Shape([1]), ir.Shape([len(dims)])
        length = build.node("Shape", [x], attributes={"start": axis, "end": axis + 1}, shape=of_one, dtype=_INT)
        dims[0] = -1
        inputs = [build.ints(dims[:unknown]), length]
        if after_it := dims[unknown + 1 :]:
            inputs.append(build.ints(after_it))
        node.replace_input_with(1, build.node("Concat", inputs, attributes={"axis": 0}, shape=of_target, dtype=_INT))
        return node.outputs[0]
