"""Reuse a sum that is computed anyway."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.rewrite.match import operands, producer, second_reader
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["ReuseSumsPass"]


class ReuseSumsPass(NodeRewritePass):
    """(a + b) + c becomes a + (b + c) where the graph computes b + c anyway; equal up to rounding.

    A sequential adapter adds x + r twice: once before the adapter's LayerNorm, once to the adapter's result. Afterwards it is
    added once, and where x and r belong to the trunk, one tensor enters the branch instead of two.
    """

    op_types = ("Add",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Let an Add read a sum that is there."""
        result = _reuse(node, build)
        build.once(frozenset(node.inputs), lambda: node.outputs[0])
        return result


def _reuse(node: ir.Node, build: Builder) -> Rewritten:
    refusal: Refusal | None = None
    for value, other in operands(node):
        inner = producer(value, "Add")
        for kept, moved in () if inner is None else operands(inner):
            total = build.known(frozenset((moved, other)))
            if total is None or total is value:  # (a + b) + a would change back and forth
                continue
            if readers := second_reader(value):
                refusal = Refusal(f"the sum of {kept.name} and {moved.name} {readers}", value)
            # Equal shapes, so that no broadcast changes sides.
            elif len({known_shape(each) for each in (kept, moved, other, total, node.outputs[0])} | {None}) != 2:
                refusal = Refusal("the summands are not known to have one shape")
            else:
                index = 0 if node.inputs[0] is value else 1
                node.replace_input_with(index, kept)
                node.replace_input_with(1 - index, total)
                return node.outputs[0]
    return refusal
