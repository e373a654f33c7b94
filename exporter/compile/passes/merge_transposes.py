"""Makes one Transpose of several."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape

__all__ = ["MergeTransposesPass"]


def _perm(node: ir.Node | None) -> list[int] | None:
    if node is None or node.op_type != "Transpose" or node.domain != "":
        return None
    return list(node.attributes.get_ints("perm", ())) or None


def _swaps_last_axes(node: ir.Node) -> ir.Value | None:
    """x of Reshape(Transpose(Reshape(x to [-1, a, b])) to [..., b, a]), which is how torch.onnx writes k transposed."""
    source = node.inputs[0]
    transpose = source.producer() if source is not None else None
    if node.op_type != "Reshape" or transpose is None or _perm(transpose) != [0, 2, 1]:
        return None
    inner = transpose.inputs[0].producer() if transpose.inputs[0] is not None else None
    x = inner.inputs[0] if inner is not None and inner.op_type == "Reshape" and inner.domain == "" else None
    before, between, after = known_shape(x), known_shape(transpose.inputs[0]), known_shape(node.outputs[0])
    if x is None or before is None or after is None or len(before) < 3:
        return None
    # The leading axes become one, whose length nobody notes: the target tells the other two.
    target = const_array(inner.inputs[1]) if inner is not None else None
    last = between[-2:] if between is not None else tuple(target[-2:].tolist()) if target is not None else ()
    return x if last == before[-2:] and after == (*before[:-2], before[-1], before[-2]) else None


class MergeTransposesPass(ir.passes.InPlacePass):
    """Two rules, bit-exact:

    1. Reshape, Transpose(0, 2, 1), Reshape that only swap the last two axes become one Transpose.
    2. A Transpose of a Transpose becomes one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            output = node.outputs[0]
            if output.is_graph_output():
                continue  # its name is part of the interface
            perm, source = _perm(node), node.inputs[0] if node.inputs else None
            before = _swaps_last_axes(node)
            if before is not None and before.shape is not None:  # rule 1
                rank = len(before.shape)
                source, perm = before, [*range(rank - 2), rank - 1, rank - 2]
            inner = source.producer() if source is not None else None
            first = _perm(inner)
            if perm is not None and first is not None and inner is not None:  # rule 2
                source, perm = inner.inputs[0], [first[axis] for axis in perm]
            elif before is None:
                continue
            assert source is not None
            assert perm is not None
            merged = build.node("Transpose", [source], attributes={"perm": perm}, shape=output.shape, dtype=output.dtype)
            model.graph.insert_before(node, build.take())
            output.replace_all_uses_with(merged)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
