"""Fuse attention into one operator of ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.attention import Attention, match_attention
from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten

__all__ = ["FuseAttentionPass"]


class FuseAttentionPass(NodeRewritePass):
    """softmax(q kᵀ + mask) v over heads becomes com.microsoft.MultiHeadAttention, equal up to rounding.

    1. q, k and v are split into heads by Reshape to [0, 0, heads, size] and Transpose, and the result is joined the same way.
    2. Nothing else reads the values in between.
    3. The scale of the scores is part of q's weights by now (FoldScales); the operator's own is 1.
    4. The operator takes a mask [batch or 1, heads or 1, rows, columns]: one row for all is repeated, once per mask. A mask of
       another rank, or scores that something else is added to, stay as they are.
    """

    op_types = ("Softmax",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace the attention that a Softmax belongs to."""
        found = match_attention(node)
        return {found.output: _fuse(found, build)} if isinstance(found, Attention) else found


def _fuse(found: Attention, build: Builder) -> ir.Value:
    query, shape = found.query, known_shape(found.query)
    assert shape is not None  # match_attention
    inputs: list[ir.Value | None] = [query, found.key, found.value]
    if (mask := found.mask) is not None:
        inputs += [None, None, build.once((mask, shape[1]), lambda: _whole_mask(mask, query, build))]
    return build.nodes(
        "MultiHeadAttention",
        inputs,
        attributes={"num_heads": found.heads, "scale": 1.0},
        shapes=[found.output.shape],
        dtypes=[found.output.dtype],
        hints=[f"{found.output.name}_attention"],
        domain="com.microsoft",
    )[0]


def _whole_mask(mask: ir.Value, query: ir.Value, build: Builder) -> ir.Value:  # rule 4
    shape, rows = known_shape(mask), (known_shape(query) or (0, 0))[1]
    assert shape is not None  # match_attention
    if shape[2] == rows:
        return mask
    # The number of rows is that of the query, whatever the other axes of the mask are.
    length = build.node("Shape", [query], attributes={"start": 1, "end": 2}, dtype=ir.DataType.INT64, shape=ir.Shape([1]))
    sizes = [build.ints([1, 1]), length, build.ints([1])]
    target = build.node("Concat", sizes, attributes={"axis": 0}, dtype=ir.DataType.INT64, shape=ir.Shape([4]))
    whole = ir.Shape([shape[0], shape[1], rows, shape[3]])
    return build.node("Expand", [mask, target], shape=whole, dtype=mask.dtype, hint=f"{mask.name}_rows")
