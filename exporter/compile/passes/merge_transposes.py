"""Merge consecutive Transposes."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MergeTransposesPass"]


def _perm(node: ir.Node | None) -> list[int] | None:
    if node is None or node.op_type != "Transpose" or node.domain != "":
        return None
    return list(node.attributes.get_ints("perm", ())) or None


def _swaps_last_axes(node: ir.Node) -> ir.Value | Refusal | None:
    """The x of Reshape(Transpose(Reshape(x to [-1, a, b])) to [..., b, a]), which is how torch.onnx writes k transposed."""
    transpose = producer(node.inputs[0], "Transpose")
    if node.op_type != "Reshape" or transpose is None or _perm(transpose) != [0, 2, 1]:
        return None
    inner = producer(transpose.inputs[0], "Reshape")
    x = None if inner is None else inner.inputs[0]
    before, between, after = known_shape(x), known_shape(transpose.inputs[0]), known_shape(node.outputs[0])
    if inner is None or x is None:
        return None
    if before is None or after is None:
        return Refusal("the shapes around the transposed matrices are not known")
    if len(before) < 3:
        return None
    # The length of the joined leading axes is not known; the target has the other two.
    target = const_array(inner.inputs[1])
    last = between[-2:] if between is not None else tuple(target[-2:].tolist()) if target is not None else ()
    return x if last == before[-2:] and after == (*before[:-2], before[-1], before[-2]) else None


class MergeTransposesPass(NodeRewritePass):
    """Two rules, bit-exact.

    1. Reshape, Transpose(0, 2, 1), Reshape that only swap the last two axes become one Transpose.
    2. A Transpose of a Transpose becomes one.
    """

    op_types = ("Reshape", "Transpose")
    keeps_outputs = True

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a Transpose, or the last Reshape of a swap."""
        output, perm, source = node.outputs[0], _perm(node), node.inputs[0]
        swapped = _swaps_last_axes(node)
        if isinstance(swapped, Refusal):
            return swapped
        if swapped is not None and swapped.shape is not None:  # rule 1
            rank = len(swapped.shape)
            source, perm = swapped, [*range(rank - 2), rank - 1, rank - 2]
        inner = None if source is None else source.producer()
        first = _perm(inner)
        if perm is not None and first is not None and inner is not None:  # rule 2
            source, perm = inner.inputs[0], [first[axis] for axis in perm]
        elif swapped is None:
            return None
        assert source is not None  # both rules name one
        return build.node("Transpose", [source], attributes={"perm": perm or ()}, shape=output.shape, dtype=output.dtype)
