"""Output shapes of the fused operators of ONNX Runtime (domain com.microsoft), which ONNX's inference does not know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

Dims = tuple[int, ...]

MATRIX_PRODUCTS = frozenset(
    {"FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
)
# One output of the first input's shape; further outputs, where they exist, are statistics that nothing reads here.
_SAME = frozenset(
    {
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "FastGelu",
        "Gelu",
        "QuickGelu",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "DequantizeLinear",
        "QuantizeLinear",
    }
)
_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_PACKED_RANK = 5  # query, key and value in one tensor: [batch, sequence, heads, 3, head size]


def fused_outputs(node: ir.Node, inputs: Sequence[Dims | None]) -> list[Dims]:
    """Return the dimensions of the leading outputs, as many as are known; an operator without a rule has an empty list."""
    first = inputs[0] if inputs else None
    kind = node.op_type
    if first is None:
        return []
    if kind in MATRIX_PRODUCTS:
        return [matmul_dims(node, first, _at(inputs, 1))]
    if kind == "FusedGemm":
        rows = first[1] if node.attributes.get_int("transA", 0) else first[0]
        weight = _at(inputs, 1)
        return [(rows, weight[0] if node.attributes.get_int("transB", 0) else weight[1])]
    if kind == "MatMulNBits":
        return [(*first[:-1], node.attributes.get_int("N", 0))]
    if kind in ("Attention", "QAttention"):
        return [(*first[:2], qkv_sizes(node, _at(inputs, 1))[2])]
    if kind == "MultiHeadAttention":
        _, value = key_value(inputs)
        return [(*first[:2], first[2] * first[4] if len(first) == _PACKED_RANK else value[-1])]
    if kind == "EmbedLayerNormalization":
        return [(*first, _at(inputs, 2)[-1]), (first[0],)]
    if kind in _SKIP_NORMS:
        # mean and inverse deviation are never read; the sum of input and skip may be
        return [first, (), (), first][: len(node.outputs)]
    return [first] if kind in _SAME else []


def matmul_dims(node: ir.Node, left: Dims, right: Dims) -> Dims:
    """Return the shape of a (fused) matrix product, with numpy's broadcasting."""
    left, right = _turned(left, node.attributes.get_int("transA", 0)), _turned(right, node.attributes.get_int("transB", 0))
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))


def _turned(dims: Dims, turned: int) -> Dims:
    return (*dims[:-2], dims[-1], dims[-2]) if turned and len(dims) > 1 else dims


def qkv_sizes(node: ir.Node, weight: Dims) -> tuple[int, int, int]:
    """Return the widths of query, key and value of an Attention with a packed weight [input width, sum of widths]."""
    query, key, value = node.attributes.get_ints("qkv_hidden_sizes", ()) or (weight[1] // 3,) * 3
    return int(query), int(key), int(value)


def key_value(inputs: Sequence[Dims | None]) -> tuple[Dims, Dims]:
    """Return the shapes of key and value of a MultiHeadAttention as [batch, length, width], however they are packed."""
    query = _at(inputs, 0)
    if len(query) == _PACKED_RANK:
        packed = (query[0], query[1], query[2] * query[4])
        return packed, packed
    key, value = _at(inputs, 1), _at(inputs, 2)
    if len(key) == _PACKED_RANK:  # [batch, length, heads, 2, head size]
        key = value = (key[0], key[1], key[2] * key[4])
    flat = [(dims[0], dims[2], dims[1] * dims[3]) if len(dims) == 4 else dims for dims in (key, value or key)]
    return flat[0], flat[1]


def _at(inputs: Sequence[Dims | None], index: int) -> Dims:
    """Return the dimensions of an input; () if it is absent."""
    found = inputs[index] if index < len(inputs) else None
    return () if found is None else found
