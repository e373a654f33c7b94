"""Parts of patterns that several passes look for."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array
from exporter.compile.rewrite.refusals import Refusal

__all__ = [
    "Linear",
    "counts_from_zero",
    "expect_producer",
    "is_constant",
    "match_linear",
    "measured_axes",
    "operands",
    "producer",
    "second_reader",
    "sole_producer",
    "transposed",
]


@dataclass(frozen=True)
class Linear:
    """x W + b or x W, with a result that is read once.

    Attributes:
        x: the left operand, a computed value or an input.
        weight: W, constant or the Transpose of a constant.
        bias: the constant b, or None.
        product: the MatMul, whose result only `total` reads.
        total: the Add, or the MatMul if there is no bias.
    """

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    product: ir.Node
    total: ir.Node


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the standard operator that computes the value if it has that type; None otherwise."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def sole_producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the same as `producer` if the value is read once and is not an output of the graph; None otherwise."""
    return None if value is None or second_reader(value) else producer(value, op_type)


def second_reader(value: ir.Value) -> str | None:
    """Describe the readers of the value, "has 2 readers"; None if it has exactly one, which may change or replace it."""
    if value.is_graph_output():
        return "is an output of the graph"
    readers = len(value.uses())
    return None if readers == 1 else f"has {readers} readers"


def expect_producer(value: ir.Value | None, op_type: str, what: str) -> ir.Node | Refusal:
    """Return the same as `sole_producer`, or the reason why there is no such operator.

    Args:
        value: the value that the operator must compute.
        op_type: the type of the operator.
        what: the value in words, such as "the key".
    """
    node = producer(value, op_type)
    if value is None or node is None:
        made = None if value is None else value.producer()
        return Refusal(f"{what} is {f'made by {made.op_type}' if made else 'given'}, not made by {op_type}", value)
    readers = second_reader(value)
    return node if readers is None else Refusal(f"{what} {readers}", value)


def operands(node: ir.Node) -> tuple[tuple[ir.Value, ir.Value], ...]:
    """Return the two inputs of a commutative operator in both orders."""
    left, right = node.inputs
    assert left is not None  # both are required
    assert right is not None
    return (left, right), (right, left)


def transposed(value: ir.Value | None) -> ir.Value | None:
    """Return W if the value is Transpose(W); None otherwise."""
    node = producer(value, "Transpose")
    return None if node is None else node.inputs[0]


def is_constant(value: ir.Value | None) -> bool:
    """Return whether the value is a constant, or the Transpose of one: task weights are not folded until they are bound."""
    return const_array(value) is not None or const_array(transposed(value)) is not None


def match_linear(value: ir.Value | None) -> Linear | Refusal | None:
    """Return the linear layer that computes `value`; None if it is not computed by a MatMul by a constant."""
    if value is None:
        return None
    add = producer(value, "Add")
    refusal: Refusal | None = None
    for total, bias in operands(add) if add is not None else ((value, None),):
        product = producer(total, "MatMul")
        if product is None or not is_constant(product.inputs[1]):
            continue
        x, weight = product.inputs
        assert x is not None  # both are required
        assert weight is not None
        for each, what in ((value, "the linear layer"), (total, "the product of the linear layer")):
            if refusal is None and (readers := second_reader(each)):
                refusal = Refusal(f"{what} {readers}", each)
        if bias is not None and const_array(bias) is None:
            refusal = refusal or Refusal("what is added to the product is not constant", bias)
        elif refusal is None:
            return Linear(x, weight, bias, product, product if add is None else add)
    return refusal


def measured_axes(shape: ir.Node, rank: int) -> range:
    """Return the axes whose lengths a Shape of a value of that rank gives."""
    return range(rank)[shape.attributes.get_int("start", 0) : shape.attributes.get_int("end", rank)]


def counts_from_zero(value: ir.Value | None) -> bool:
    """Return whether the value is [0, 1, 2, …], int64."""
    node = producer(value, "Range")
    if value is None or node is None or value.dtype != ir.DataType.INT64:
        return False
    start, step = const_array(node.inputs[0]), const_array(node.inputs[2])
    return start is not None and start.item() == 0 and step is not None and step.item() == 1
