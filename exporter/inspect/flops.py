"""The number of floating-point operations of a node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporter.inspect.fused import MATRIX_PRODUCTS, Dims, key_value, qkv_sizes
from exporter.inspect.shapes import Known

_PRODUCTS = MATRIX_PRODUCTS | {"MatMul", "MatMulInteger", "QLinearMatMul"}
# These multiply 8-bit integers, whatever type their result has.
_INTEGERS = frozenset(
    (
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QLinearConv",
        "QLinearMatMul",
    )
)
# The index of the fused bias among the inputs.
_BIAS = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}
# fmt: off
_MOVES = frozenset((
    "Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "NonZero", "OneHot", "Pad", "Range", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
))
# fmt: on
# Operations per element of the result, roughly: means, variance, scale and shift; maximum, exponential, sum and division.
_PER_ELEMENT = {
    "LayerNormalization": 8,
    "SimplifiedLayerNormalization": 6,
    "SkipLayerNormalization": 9,
    "SkipSimplifiedLayerNormalization": 7,
    "EmbedLayerNormalization": 10,
    "BatchNormalization": 2,
    "GroupNormalization": 8,
    "InstanceNormalization": 8,
    "RMSNormalization": 6,
    "Softmax": 5,
    "LogSoftmax": 6,
    "BiasSoftmax": 6,
    "Gelu": 8,
    "BiasGelu": 9,
    "FastGelu": 9,
    "QuickGelu": 6,
    "Erf": 6,
    "Tanh": 6,
    "Sigmoid": 4,
    "Exp": 4,
    "Log": 4,
    "Softplus": 6,
    "Mish": 12,
    "RotaryEmbedding": 3,
    "DynamicQuantizeLinear": 4,
    "QuantizeLinear": 2,
    "DequantizeLinear": 2,
}


@dataclass(frozen=True)
class Cost:
    """The operations of a node.

    Attributes:
        matrix: operations of matrix products and convolutions, exact; a multiplication and an addition count as two.
        other: all other operations, estimated.
    """

    matrix: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return self.matrix + self.other


def node_cost(node: ir.Node, known: Mapping[ir.Value, Known]) -> Cost | None:
    """Return the operations of `node`; None if they depend on an unknown shape."""
    if node.op_type in _MOVES:
        return Cost()
    if node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].is_initializer():
        return Cost()  # a weight: done once, when the graph is loaded, or inside the product
    inputs: list[Dims | None] = []
    for value in node.inputs:
        if value is not None and value not in known:
            return None
        inputs.append(None if value is None else known[value].dims)
    if node.outputs[0] not in known:
        return None
    output = known[node.outputs[0]].dims
    size = math.prod(output)
    given = [dims for dims in inputs if dims is not None]
    if node.op_type.startswith("Reduce") or node.op_type in ("ArgMax", "ArgMin", "CumSum", "GlobalAveragePool"):
        return Cost(other=math.prod(given[0]))
    matrix = _matrix(node, inputs, output)
    if matrix is not None:
        return matrix
    return Cost(other=size * _PER_ELEMENT.get(node.op_type, 1))


def _matrix(node: ir.Node, inputs: Sequence[Dims | None], output: Dims) -> Cost | None:
    """Return the cost of a node that multiplies matrices; None for any other node."""
    kind, size = node.op_type, math.prod(output)
    left = inputs[0] if inputs else None
    if left is None:
        return None
    if kind in _PRODUCTS:
        inner = left[-2] if node.attributes.get_int("transA", 0) and len(left) > 1 else left[-1]
        bias = _BIAS.get(kind)
        return Cost(2 * size * inner, size if bias is not None and _present(inputs, bias) else 0)
    if kind in ("Gemm", "FusedGemm"):
        inner = left[0] if node.attributes.get_int("transA", 0) else left[1]
        return Cost(2 * size * inner, size * _present(inputs, 2))
    if kind == "MatMulNBits":
        return Cost(2 * size * node.attributes.get_int("K", 0))
    if kind in ("Conv", "FusedConv", "ConvInteger", "QLinearConv"):
        weight = inputs[3 if kind == "QLinearConv" else 1] or ()
        return Cost(2 * size * math.prod(weight[1:]), size * (kind == "Conv" and _present(inputs, 2)))
    if kind == "Einsum":
        return _einsum(node, inputs)
    return _attention(node, inputs)


def product_type(node: ir.Node, known: Mapping[ir.Value, Known]) -> str:
    """Return the type in which a matrix product multiplies: "float32", "float16", or "int8" for operands in 8 bits."""
    if node.op_type in _INTEGERS or all(_dequantized(value) for value in node.inputs[:2]):
        return "int8"
    return known[node.outputs[0]].dtype.numpy().name


def _dequantized(value: ir.Value | None) -> bool:
    """Return whether a value is dequantized: ONNX Runtime and OpenVINO multiply the integers if both operands are."""
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _present(inputs: Sequence[Dims | None], index: int) -> bool:
    return index < len(inputs) and inputs[index] is not None


def _attention(node: ir.Node, inputs: Sequence[Dims | None]) -> Cost | None:
    """Return the cost of attention: projections if they are fused too, scores, softmax and the weighted sum of values."""
    kind, query = node.op_type, inputs[0] or ()
    if kind in ("Attention", "QAttention") and node.domain == "com.microsoft":
        weight = inputs[1] or ()
        widths = qkv_sizes(node, weight)
        batch, length = query[:2]
        projected = 2 * batch * length * weight[0] * sum(widths)
        cost = _scores(node, batch, length, length, widths[0], widths[2])
        return Cost(cost.matrix + projected, cost.other + batch * length * sum(widths))
    if kind in ("MultiHeadAttention", "Attention"):
        if kind == "Attention" and len(query) == 4:  # ONNX's own, [batch, heads, length, head size]
            keys, values = inputs[1] or (), inputs[2] or ()
            products = 2 * math.prod(query) * keys[2] + 2 * math.prod(query[:3]) * keys[2] * values[3]
            return Cost(products, 5 * math.prod(query[:3]) * keys[2])
        key, value = key_value(inputs)
        width = query[2] * query[4] if len(query) == 5 else query[-1]
        return _scores(node, query[0], query[1], key[1], width, value[-1])
    return None


def _scores(node: ir.Node, batch: int, length: int, keys: int, width: int, value_width: int) -> Cost:
    heads = node.attributes.get_int("num_heads", 0) or node.attributes.get_int("q_num_heads", 1)
    return Cost(2 * batch * length * keys * (width + value_width), 5 * batch * heads * length * keys)


def _einsum(node: ir.Node, inputs: Sequence[Dims | None]) -> Cost | None:
    """Return the cost of an Einsum of two operands; others, or dots, could be computed in several orders."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        return None
    sizes = {
        letter: size for term, dims in zip(terms, inputs, strict=True) for letter, size in zip(term, dims or (), strict=True)
    }
    return Cost(2 * math.prod(sizes.values()))
