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
    "operands",
    "producer",
    "second_reader",
    "sole_producer",
    "transposed",
]


@dataclass(frozen=True)
class Linear:
    """x W + b, or x W, which is read once.

    Attributes:
        x: what is multiplied, computed or given.
        weight: W, constant or the Transpose of a constant.
        bias: the constant b, or None.
        product: the MatMul, whose result only `total` reads.
        total: the Add, or the MatMul where there is no b.
    """

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    product: ir.Node
    total: ir.Node


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The standard operator of that type that makes the value."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def sole_producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The standard operator of that type that makes a value which is read once and is no output of the graph."""
    return None if value is None or second_reader(value) else producer(value, op_type)


def second_reader(value: ir.Value) -> str | None:
    """Why the value must stay whoever reads it differently: its readers in words; None where there is one."""
    if value.is_graph_output():
        return "is an output of the graph"
    readers = len(value.uses())
    return None if readers == 1 else f"has {readers} readers"


def expect_producer(value: ir.Value | None, op_type: str, what: str) -> ir.Node | Refusal:
    """`sole_producer`, with the reason where it finds no node.

    Args:
        value: what the operator must make.
        op_type: its type.
        what: the value in words, "the key".
    """
    node = producer(value, op_type)
    if value is None or node is None:
        made = None if value is None else value.producer()
        return Refusal(f"{what} is {f'made by {made.op_type}' if made else 'given'}, not made by {op_type}", value)
    readers = second_reader(value)
    return node if readers is None else Refusal(f"{what} {readers}", value)


def operands(node: ir.Node) -> tuple[tuple[ir.Value, ir.Value], ...]:
    """The two inputs of a commutative operator in both orders."""
    left, right = node.inputs
    assert left is not None  # both are required
    assert right is not None
    return (left, right), (right, left)


def transposed(value: ir.Value | None) -> ir.Value | None:
    """W of Transpose(W)."""
    node = producer(value, "Transpose")
    return None if node is None else node.inputs[0]


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value, or what it is the Transpose of, is constant: task weights are not folded until they are bound."""
    return const_array(value) is not None or const_array(transposed(value)) is not None


def match_linear(value: ir.Value | None) -> Linear | Refusal | None:
    """The linear layer that makes `value`; None if no MatMul by a constant does."""
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


def counts_from_zero(value: ir.Value | None) -> bool:
    """Whether the value is [0, 1, 2, …], int64."""
    node = producer(value, "Range")
    if value is None or node is None or value.dtype != ir.DataType.INT64:
        return False
    start, step = const_array(node.inputs[0]), const_array(node.inputs[2])
    return start is not None and start.item() == 0 and step is not None and step.item() == 1
