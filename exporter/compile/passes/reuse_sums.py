"""Adds what is already there instead of its parts."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import known_shape

__all__ = ["ReuseSumsPass"]


class ReuseSumsPass(ir.passes.InPlacePass):
    """(a + b) + c becomes a + (b + c) where the graph computes b + c anyway; equal to rounding.

    A sequential adapter adds x + r twice: once before the adapter's LayerNorm, once to the adapter's result. Afterwards it is
    added once, and where x and r belong to the trunk, one tensor enters the branch instead of two.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        known: dict[frozenset[ir.Value | None], ir.Value] = {}
        modified = False
        for node in model.graph:
            if node.op_type != "Add" or node.domain != "":
                continue
            modified |= _reuse(node, known)
            known.setdefault(frozenset(node.inputs), node.outputs[0])
        return ir.passes.PassResult(model, modified=modified)


def _reuse(node: ir.Node, known: dict[frozenset[ir.Value | None], ir.Value]) -> bool:
    shape = known_shape(node.outputs[0])
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        inner = value.producer() if value is not None else None
        if (
            inner is None
            or inner.outputs[0].is_graph_output()
            or inner.op_type != "Add"
            or inner.domain != ""
            or len(list(inner.outputs[0].uses())) != 1
        ):
            continue
        for kept, moved in (inner.inputs, tuple(reversed(inner.inputs))):
            total = known.get(frozenset((moved, other)))
            if total is value:  # (a + b) + a would turn round for ever
                continue
            # Shapes are compared so that no broadcast changes sides.
            if total is None or shape is None or any(known_shape(v) != shape for v in (kept, moved, other, total)):
                continue
            node.replace_input_with(index, kept)
            node.replace_input_with(1 - index, total)
            return True
    return False
