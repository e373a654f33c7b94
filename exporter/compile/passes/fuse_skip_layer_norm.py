"""Fuse a residual sum and its norm into one operator of ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import operands, producer, sole_producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["FuseSkipLayerNormPass"]


class FuseSkipLayerNormPass(NodeRewritePass):
    """LayerNormalization(x + r) becomes com.microsoft.SkipLayerNormalization, equal up to rounding.

    1. x and r are tensors [batch, rows, features] of one shape; scale and bias of the norm are vectors over the features.
    2. If x is y + b with a constant vector b that nothing else reads, the operator adds b as well.
    3. If the sum is read elsewhere, for example by a sequential adapter's residual, it is the operator's fourth output.
    """

    op_types = ("LayerNormalization",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a norm of a sum."""
        total, scale, bias = [*node.inputs, None][:3]
        add = producer(total, "Add")
        if total is None or add is None:
            return None
        shape = known_shape(total)
        if total.is_graph_output():
            return Refusal("the sum is an output of the graph", total)
        if shape is None or len(shape) != 3 or any(known_shape(value) != shape for value in add.inputs):  # rule 1
            return Refusal("the summands are not known to be of one shape [batch, rows, features]", total)
        if node.attributes.get_int("axis", -1) not in (-1, 2) or len(node.outputs) != 1 or len(known_shape(scale) or ()) != 1:
            return Refusal("the norm is not over the features only, with one scale per feature")
        left, right = add.inputs
        offset = None
        for x, r in operands(add):
            inner = _biased(x)
            if inner is not None:
                left, right, offset = inner[0], r, inner[1]  # rule 2
                break
        shared = len(total.uses()) > 1
        further = [f"{total.name}_{part}" for part in ("mean", "deviation", "sum")] if shared else []  # rule 3
        outputs = build.nodes(
            "SkipLayerNormalization",
            [left, right, scale, bias, *([] if offset is None else [offset])],
            attributes={"epsilon": node.attributes.get_float("epsilon", 1e-5)},
            shapes=[total.shape, *([ir.Shape([1]), ir.Shape([1]), total.shape] if shared else [])],
            dtypes=[total.dtype, *([ir.DataType.FLOAT, ir.DataType.FLOAT, total.dtype] if shared else [])],
            hints=[node.outputs[0].name, *further],
            domain="com.microsoft",
        )
        return {total: outputs[3], node.outputs[0]: outputs[0]} if shared else outputs[0]


def _biased(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """(y, b) of y + b that nothing else reads."""
    add = sole_producer(value, "Add")
    for y, b in () if add is None else operands(add):
        array = const_array(b)
        if array is not None and array.ndim == 1 and known_shape(y) == known_shape(value):
            return y, b
    return None
