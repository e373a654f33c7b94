"""The operator table: which positions of which input axis a position of the result reads.

Three passes use it. VectorizeTasks and RouteTasks decide with it whether an operator treats the rows of a batch one by one;
PushSlices finds with it the rows of the inputs that some rows of a result need. The groups of operators that other passes match
are taken from the same table. A new element-wise operator is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from exporter.compile.rewrite import axis_rules as rules
from exporter.compile.rewrite import index_rules
from exporter.compile.rewrite.axis_rules import Rule, Sources

__all__ = [
    "BINARY",
    "BROADCASTING",
    "ELEMENTWISE",
    "MOVES",
    "OPERATORS",
    "PERMUTES",
    "SAME_ORDER",
    "UNARY",
    "Sources",
    "block_sources",
    "carried_from",
    "sources",
]

_Kind = Literal["unary", "binary", "elementwise", "same order", "permutes", "moves", "computes"]


@dataclass(frozen=True)
class Operator:
    """One line of the table.

    Attributes:
        kind: "unary", "binary" and "elementwise": each element of the result depends on one element of each operand; there are
            one, two or any number of operands, which broadcast against each other.
            "same order", "permutes" and "moves": the result consists of elements of the first input: all of them in the same
            order, all of them in another order, or some of them, possibly several times.
            "computes": everything else.
        rule: computes the answer of `sources`.
        sizes: the index of the input that holds lengths of the result's axes; None without such an input.
    """

    kind: _Kind
    rule: Rule
    sizes: int | None = None


_UNARY = Operator("unary", rules.broadcast)
_BINARY = Operator("binary", rules.broadcast)
_ELEMENTWISE = Operator("elementwise", rules.broadcast)
_ALONG_AXIS = Operator("computes", rules.along_axis)
_REDUCE = Operator("computes", rules.reduce)

OPERATORS: Mapping[str, Operator] = {
    "Abs": _UNARY,
    "Cast": _UNARY,
    "Ceil": _UNARY,
    "Cos": _UNARY,
    "Elu": _UNARY,
    "Erf": _UNARY,
    "Exp": _UNARY,
    "Floor": _UNARY,
    "Gelu": _UNARY,
    "HardSigmoid": _UNARY,
    "HardSwish": _UNARY,
    "Identity": _UNARY,
    "IsInf": _UNARY,
    "IsNaN": _UNARY,
    "LeakyRelu": _UNARY,
    "Log": _UNARY,
    "Mish": _UNARY,
    "Neg": _UNARY,
    "Not": _UNARY,
    "Reciprocal": _UNARY,
    "Relu": _UNARY,
    "Round": _UNARY,
    "Selu": _UNARY,
    "Sigmoid": _UNARY,
    "Sign": _UNARY,
    "Sin": _UNARY,
    "Softplus": _UNARY,
    "Softsign": _UNARY,
    "Sqrt": _UNARY,
    "Tanh": _UNARY,
    "Add": _BINARY,
    "And": _BINARY,
    "Div": _BINARY,
    "Equal": _BINARY,
    "Greater": _BINARY,
    "GreaterOrEqual": _BINARY,
    "Less": _BINARY,
    "LessOrEqual": _BINARY,
    "Max": _BINARY,
    "Min": _BINARY,
    "Mod": _BINARY,
    "Mul": _BINARY,
    "Or": _BINARY,
    "Pow": _BINARY,
    "Sub": _BINARY,
    "Xor": _BINARY,
    "Mean": _ELEMENTWISE,
    "Sum": _ELEMENTWISE,
    "Where": _ELEMENTWISE,
    "Flatten": Operator("same order", rules.reshape),
    "Reshape": Operator("same order", rules.reshape, sizes=1),
    "Squeeze": Operator("same order", rules.squeeze),
    "Unsqueeze": Operator("same order", rules.unsqueeze),
    "Transpose": Operator("permutes", rules.transpose),
    "Expand": Operator("moves", rules.expand, sizes=1),
    "Gather": Operator("moves", index_rules.gather),
    "GatherElements": Operator("moves", index_rules.gather_elements),
    "GatherND": Operator("moves", index_rules.gather_nd),
    "Slice": Operator("moves", rules.cut),
    "Split": Operator("moves", rules.along_axis),
    "Tile": Operator("moves", rules.tile, sizes=1),
    "Clip": Operator("computes", rules.each_position),
    "Concat": Operator("computes", rules.concat),
    "ConstantOfShape": Operator("computes", rules.constant, sizes=0),
    "CumSum": Operator("computes", rules.cumulate),
    "Einsum": Operator("computes", index_rules.einsum),
    "Gemm": Operator("computes", index_rules.gemm),
    "MatMul": Operator("computes", index_rules.matmul),
    "OneHot": Operator("computes", index_rules.one_hot),
    "PRelu": Operator("computes", rules.broadcast),
    "Pad": Operator("computes", rules.pad),
    "ScatterElements": Operator("computes", index_rules.scatter_elements),
    "ScatterND": Operator("computes", index_rules.scatter_nd),
    "Trilu": Operator("computes", rules.trilu),
    "InstanceNormalization": Operator("computes", rules.each_example),
    "LayerNormalization": Operator("computes", rules.normalize),
    "Hardmax": _ALONG_AXIS,
    "LogSoftmax": _ALONG_AXIS,
    "LpNormalization": _ALONG_AXIS,
    "Softmax": _ALONG_AXIS,
    "TopK": _ALONG_AXIS,
    "ArgMax": Operator("computes", rules.arg_reduce),
    "ArgMin": Operator("computes", rules.arg_reduce),
    "ReduceL1": _REDUCE,
    "ReduceL2": _REDUCE,
    "ReduceLogSum": _REDUCE,
    "ReduceLogSumExp": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceMin": _REDUCE,
    "ReduceProd": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceSumSquare": _REDUCE,
}


def _of_kind(*kinds: _Kind) -> frozenset[str]:
    return frozenset(name for name, operator in OPERATORS.items() if operator.kind in kinds)


UNARY = _of_kind("unary")
BINARY = _of_kind("binary")
ELEMENTWISE = _of_kind("unary", "binary", "elementwise")
# Operators whose operands may lack an axis of the result, or have length 1 there.
BROADCASTING = frozenset(name for name, operator in OPERATORS.items() if operator.rule in (rules.broadcast, rules.expand))
# Operators whose result consists of elements of the first input: in the same order, each once, or any of them.
SAME_ORDER = _of_kind("same order")
PERMUTES = SAME_ORDER | _of_kind("permutes")
MOVES = PERMUTES | _of_kind("moves") | {"Identity"}


def sources(node: ir.Node, axis: int) -> Sources:
    """Return, for each input, the axis of which position i of the result's axis reads only position i.

    The answer holds for every position i. It exists only if the operator neither mixes the positions of the axis nor depends on
    the position: it does not exist for Softmax over the axis, Trilu of it, Tile along it, or a product that contracts it.

    Args:
        node: the operator; the answer is the same for all its results.
        axis: an axis of the result, counted from 0.

    Returns:
        One entry per input: the axis, or None for an input that may be read at any position, because it lacks the axis or has
        a single position there, which is broadcast. None instead of a tuple if positions mix, or if the answer is not known.
    """
    operator = OPERATORS.get(node.op_type) if node.domain == "" else None
    if operator is None or any(value is not None and value.shape is None for value in (*node.inputs, node.outputs[0])):
        return None
    return operator.rule(node, axis)


def block_sources(node: ir.Node, axis: int) -> Sources:
    """Return the same as `sources`, but allow a Reshape that merges the axis with the axes inside it, or splits it from them.

    For example, [batch, sequence, size] becomes [batch x sequence, size]: the rows of one text remain adjacent.
    """
    if node.op_type in ("Flatten", "Reshape") and node.domain == "":
        before, after = rules.shape_of(node.inputs[0]), rules.shape_of(node.outputs[0])
        if axis < min(len(before), len(after)) and all(map(rules.same, before[:axis], after[:axis])):
            return rules.only_first(node, axis)
    return sources(node, axis)


def carried_from(node: ir.Node, axis: int) -> tuple[ir.Value, int] | None:
    """Return the only input of which an axis of the result reads an axis position by position, and that axis.

    Such an operator carries the axis along, whatever its length: the selection of a token carries the labels of its logits.

    Args:
        node: the operator.
        axis: an axis of the result, counted from 0.

    Returns:
        None if no input or several inputs have the axis, if positions mix, or if the operator takes lengths of the result.
    """
    found = sources(node, axis)
    if found is None or OPERATORS[node.op_type].sizes is not None:
        return None
    read = [
        (value, source) for value, source in zip(node.inputs, found, strict=True) if value is not None and source is not None
    ]
    return read[0] if len(read) == 1 else None
