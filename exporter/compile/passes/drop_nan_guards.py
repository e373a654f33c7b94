"""Remove the guard against fully masked rows if every mask is finite."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import MOVES
from exporter.compile.rewrite.builder import Builder, const_array, const_scalar
from exporter.compile.rewrite.match import producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["DropNanGuardsPass"]


class DropNanGuardsPass(NodeRewritePass):
    """Where(IsNaN(p), c, p) becomes p where p = Softmax(s + m) with a mask m of finite numbers; bit-exact for finite scores s.

    torch.onnx guards every attention under a boolean mask, because a mask of minus infinities makes a row without a single
    token 0 / 0. Most masks hold the smallest finite number instead: such a row is then an average. The guard reads the largest
    tensor of a layer twice and hides the attention from fusions.
    """

    op_types = ("Where",)
    keeps_outputs = True

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        """Replace a guarded softmax by the softmax."""
        test, guarded = producer(node.inputs[0], "IsNaN"), node.inputs[2]
        if test is None or guarded is None or test.inputs[0] is not guarded or const_scalar(node.inputs[1]) is None:
            return None
        softmax = producer(guarded, "Softmax")
        if softmax is None:
            return Refusal("the guarded value is not the result of a Softmax", guarded)
        total = producer(softmax.inputs[0], "Add")
        if total is None or not any(_is_finite(value) for value in total.inputs):
            return Refusal("no finite mask is added to the scores", softmax.inputs[0])
        return guarded


def _is_finite(value: ir.Value | None) -> bool:
    """Whether the value consists of finite constants only, whatever selects among them."""
    array = const_array(value)
    node = None if value is None else value.producer()
    if array is not None:
        return bool(np.isfinite(array).all())
    if node is None or node.domain != "":
        return False
    if node.op_type == "Where":
        return _is_finite(node.inputs[1]) and _is_finite(node.inputs[2])
    return node.op_type in MOVES and _is_finite(node.inputs[0])
