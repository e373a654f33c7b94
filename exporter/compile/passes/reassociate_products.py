"""Compute products in the order that needs the fewest operations."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import Linear, match_linear, producer, second_reader, transposed
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["ReassociateProductsPass"]


class ReassociateProductsPass(NodeRewritePass):
    """Two rules for a small matrix p or q [..., r, n] and a larger m [..., n, D], r < n, with weights W; equal up to rounding.

    1. p (m W) becomes (p m) W: r rows go through W instead of n.
    2. q (m W + b)ᵀ becomes (q Wᵀ) mᵀ + q b, where b is a vector or nothing: again r rows instead of n.

    AdapterFusion weights the n members of each position by one query: of its 2 n + 1 products with square matrices 3 are left,
    however many members there are. The value has no bias there; the key's adds the same number to each member's score.
    """

    op_types = ("MatMul",)
    keeps_outputs = True

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Apply one of the rules to a product."""
        small, other = node.inputs
        transpose = producer(other, "Transpose")
        linear = match_linear(other if transpose is None else transpose.inputs[0])
        if small is None or linear is None:
            return None
        # A linear layer with fewer rows than the matrix before it is not a case of this.
        large = linear.x if isinstance(linear, Linear) else linear.value
        if large is None or not _is_fewer(small, large):
            return None
        if isinstance(linear, Refusal):
            return linear
        matrix, bias = const_array(transposed(linear.weight)), const_array(linear.bias)
        matrix = const_array(linear.weight) if matrix is None else matrix
        if matrix is None or matrix.ndim != 2 or (bias is not None and bias.ndim != 1):
            return Refusal("the weights are not one matrix and at most one vector", linear.weight)
        if transpose is not None:
            return _scores(node, transpose, linear, build)
        if linear.bias is not None:
            return Refusal("a bias is added to what is mixed", linear.bias)
        mixed = _product(small, linear.x, node, build, "mixed")  # rule 1
        return build.node("MatMul", [mixed, linear.weight], shape=node.outputs[0].shape, dtype=node.outputs[0].dtype)


def _scores(node: ir.Node, transpose: ir.Node, linear: Linear, build: Builder) -> Rewritten:  # rule 2
    small, output, shape, sizes = node.inputs[0], node.outputs[0], known_shape(linear.x), known_shape(linear.weight)
    assert small is not None  # rewrite
    assert shape is not None  # _is_fewer
    assert sizes is not None  # it is constant
    rank = len(shape)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    if readers := second_reader(transpose.outputs[0]):
        return Refusal(f"the transposed linear layer {readers}", transpose.outputs[0])
    if list(transpose.attributes.get_ints("perm", ())) != swap:
        return Refusal("the Transpose does not swap the last two axes", transpose.outputs[0])
    weight, bias = linear.weight, linear.bias
    upright = transposed(weight)
    if upright is None:
        turn = {"perm": [1, 0]}
        upright = build.node("Transpose", [weight], attributes=turn, shape=ir.Shape(sizes[::-1]), dtype=weight.dtype)
    query = _product(small, upright, node, build, "query")
    turned = ir.Shape([*shape[:-2], shape[-1], shape[-2]])
    columns = build.node("Transpose", [linear.x], attributes={"perm": swap}, shape=turned, dtype=linear.x.dtype)
    scores = build.node("MatMul", [query, columns], shape=output.shape, dtype=output.dtype)
    if bias is None:
        return scores
    column = build.node("Unsqueeze", [bias, build.ints([1])], shape=ir.Shape([sizes[1], 1]), dtype=bias.dtype)
    offset = _product(small, column, node, build, "offset")
    return build.node("Add", [scores, offset], shape=output.shape, dtype=output.dtype)


def _product(left: ir.Value, right: ir.Value, node: ir.Node, build: Builder, hint: str) -> ir.Value:
    rows, columns = known_shape(left), known_shape(right)
    assert rows is not None  # _is_fewer
    assert columns is not None  # _is_fewer, or made here
    name = f"{node.outputs[0].name}_{hint}"
    return build.node("MatMul", [left, right], shape=ir.Shape([*rows[:-1], columns[-1]]), dtype=left.dtype, hint=name)


def _is_fewer(small: ir.Value, large: ir.Value) -> bool:
    """Whether `small` [..., r, k] has fewer rows than `large` [..., n, D], both known numbers, with equal axes before them."""
    one, other = known_shape(small), known_shape(large)
    if one is None or other is None or len(one) != len(other) or len(one) < 3 or one[:-2] != other[:-2]:
        return False
    rows, many = one[-2], other[-2]
    return isinstance(rows, int) and isinstance(many, int) and rows < many
