"""Removes a guard against rows that a mask leaves nothing of, where the mask leaves something."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import MOVES
from exporter.compile.rewrite.builder import const_array, const_scalar

__all__ = ["DropNanGuardsPass"]


class DropNanGuardsPass(ir.passes.InPlacePass):
    """Where(IsNaN(p), c, p) becomes p where p = Softmax(s + m) with a mask m of finite numbers; bit-exact for finite scores s.

    torch.onnx guards every attention under a boolean mask, because a mask of minus infinities makes a row without a single
    token 0 / 0. Most masks hold the smallest finite number instead: such a row is then an average. The guard reads the largest
    tensor of a layer twice and hides the attention from fusions.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type != "Where" or node.domain != "" or node.outputs[0].is_graph_output():
                continue
            condition, guarded = node.inputs[0], node.inputs[2]
            asks, softmax = (None if value is None else value.producer() for value in (condition, guarded))
            if asks is None or asks.op_type != "IsNaN" or asks.inputs[0] is not guarded or guarded is None:
                continue
            if const_scalar(node.inputs[1]) is None or softmax is None or softmax.op_type != "Softmax":
                continue
            total = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
            if total is not None and total.op_type == "Add" and any(_is_finite(value) for value in total.inputs):
                node.outputs[0].replace_all_uses_with(guarded)
                model.graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _is_finite(value: ir.Value | None) -> bool:
    """Whether the value is made of finite constants alone, whatever chooses among them."""
    array = const_array(value)
    node = None if value is None else value.producer()
    if array is not None:
        return bool(np.isfinite(array).all())
    if node is None or node.domain != "":
        return False
    if node.op_type == "Where":
        return _is_finite(node.inputs[1]) and _is_finite(node.inputs[2])
    return node.op_type in MOVES and _is_finite(node.inputs[0])
