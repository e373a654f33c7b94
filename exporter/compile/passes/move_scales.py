"""Merge the factors of queries, keys and scores into one factor of the queries."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, const_scalar, known_shape
from exporter.compile.rewrite.match import operands, producer, second_reader, sole_producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MoveScalesPass"]


class MoveScalesPass(NodeRewritePass):
    """Two rules for a product of computed values, equal up to rounding; c and d are scalars.

    1. MatMul(a x c, b x d) becomes MatMul(a x cd, b): some models scale q and k each by the square root of the factor.
    2. MatMul(a, b) x c and MatMul(a, b) / c become MatMul(a x c, b), where many matrices are multiplied pair by pair: some
       models scale the scores of attention instead of the queries.

    FoldScales then moves the factor of the queries into their weights.
    """

    op_types = ("Div", "MatMul", "Mul")

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Apply rule 1 to a MatMul, rule 2 to a Mul or Div."""
        return _join(node, build) if node.op_type == "MatMul" else _move(node, build)


def _scaled(value: ir.Value | None) -> tuple[ir.Node, ir.Value, float] | None:
    """(the Mul, x, c) of x times a scalar that is read once."""
    node = sole_producer(value, "Mul")
    for x, c in () if node is None else operands(node):
        factor = const_scalar(c)
        if node is not None and value is not None and factor is not None and known_shape(x) == known_shape(value):
            return node, x, factor
    return None


def _join(matmul: ir.Node, build: Builder) -> Rewritten:  # rule 1
    left, right = _scaled(matmul.inputs[0]), _scaled(matmul.inputs[1])
    if left is None or right is None:
        return None
    node, x, c = left
    if x.dtype is None:
        return Refusal("the type of the left operand is not known", x)
    node.replace_input_with(1 - list(node.inputs).index(x), build.constant(x.dtype.numpy().type(c * right[2])))
    matmul.replace_input_with(1, right[1])
    return matmul.outputs[0]


def _move(node: ir.Node, build: Builder) -> Rewritten:  # rule 2
    output = node.outputs[0]
    for index, (scores, c) in enumerate(operands(node)):
        factor, product = const_scalar(c), producer(scores, "MatMul")
        if not factor or product is None or (node.op_type == "Div" and index != 0):
            continue
        left, right = product.inputs
        if left is None or left.dtype is None or const_array(left) is not None or const_array(right) is not None:
            continue
        if not _is_attention(product):
            continue
        if readers := second_reader(scores):
            return Refusal(f"the product {readers}", scores)
        if known_shape(scores) is None or known_shape(scores) != known_shape(output):
            return Refusal("the shape of the product is not known, or the factor adds an axis", scores)
        if output.is_graph_output():
            return Refusal("the scaled product is an output of the graph", output)
        scale = build.constant(left.dtype.numpy().type(1 / factor if node.op_type == "Div" else factor))
        scaled = build.node("Mul", [left, scale], shape=left.shape, dtype=left.dtype, hint=f"{left.name}_times")
        assert product.graph is not None  # it was found in one
        product.graph.insert_before(product, build.take())
        product.replace_input_with(0, scaled)
        return scores
    return None


def _is_attention(product: ir.Node) -> bool:
    """Whether many matrices are multiplied pair by pair; a single one may be the stacked weights of the tasks."""
    left, right = (known_shape(value) for value in product.inputs)
    return left is not None and right is not None and len(left) == len(right) > 3
