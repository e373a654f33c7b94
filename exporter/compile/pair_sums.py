"""Sums of two 8-bit products in 16 bits: the limit of processors without VNNI, and its proof for a finished graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array

__all__ = ["ProvePairSumsPass", "column_scales", "extreme_sums"]

_LARGEST = 127
# Activations are uint8, whatever their range: no kernel subtracts their zero before it multiplies.
_ACTIVATION = 255
_INT16 = np.iinfo(np.int16)
# Of a weight that is computed at run time, nothing is known.
_ANY = np.array([[-128, 127], [-128, 127]], np.int8)
# Operator -> the input with the weight.
_PRODUCTS = {("", "MatMulInteger"): 1, ("com.microsoft", "MatMulIntegerToFloat"): 1, ("", "MatMul"): 1}


def column_scales(weight: np.ndarray) -> np.ndarray:
    """Return the scale of each column of a weight [..., in, out], as [..., 1, out].

    Kernels for AVX2 and AVX-512 without VNNI (`vpmaddubsw`) multiply rows 2 i and 2 i + 1 of a column with two activations, and
    add both products in 16 bits, where they saturate. The scale keeps the sum of two such weights of one sign within 127, and
    therefore within 128 once both are rounded: 128 x 255 = 32,640. Halving all weights would do the same with 1.8 times the
    rounding error instead of 1.2 times (the bundled example).
    """
    if weight.shape[-2] % 2:
        weight = np.concatenate([weight, np.zeros_like(weight[..., :1, :])], axis=-2)
    positive, negative = (_pair_sums(np.maximum(part, 0)) for part in (weight, -weight))
    largest = np.maximum(positive, negative).max(axis=-2, keepdims=True).astype(np.float32)
    # A column of zeros has any scale.
    return np.where(largest == 0, np.float32(1), largest / np.float32(_LARGEST))


def extreme_sums(weight: np.ndarray) -> tuple[int, int]:
    """Return the smallest and the largest sum of two products of an int8 weight [..., in, out] with any uint8 activations."""
    wide = weight.astype(np.int64)
    if wide.shape[-2] % 2:
        wide = np.concatenate([wide, np.zeros_like(wide[..., :1, :])], axis=-2)
    low, high = (_pair_sums(part) for part in (np.minimum(wide, 0), np.maximum(wide, 0)))
    return _ACTIVATION * int(low.min(initial=0)), _ACTIVATION * int(high.max(initial=0))


def _pair_sums(weight: np.ndarray) -> np.ndarray:
    return np.asarray(weight[..., ::2, :] + weight[..., 1::2, :])


class ProvePairSumsPass(ir.passes.InPlacePass):
    """Refuse a graph in which a sum of two 8-bit products can exceed 16 bits; the graph is not changed.

    The manifest and the report list this pass for every int8 graph that gives the same integers on all processors. The runtime
    looks for it, see `runtime.ort.cpu.saturates`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Check the weights of all products in 8 bits.

        Raises:
            ValueError: names the weights.
        """
        wrong = []
        for weight in _weights(model):
            array = const_array(weight)
            low, high = extreme_sums(_ANY if array is None else array)
            if low < _INT16.min or high > _INT16.max:
                wrong.append(f"{weight.name} ({low:,} to {high:,})")
        if wrong:
            raise ValueError(
                f"{type(self).__name__}: expected weights whose sums of two products fit 16 bits ({_INT16.min:,} to "
                f"{_INT16.max:,}), found {', '.join(wrong)}"
            )
        return ir.passes.PassResult(model, modified=False)


def _weights(model: ir.Model) -> Iterator[ir.Value]:
    """The int8 weights of all products, also where they are dequantized or gathered before."""
    for node in model.graph:
        place = _PRODUCTS.get((node.domain, node.op_type))
        value = None if place is None else node.inputs[place]
        if value is None:
            continue
        maker = value.producer()
        if maker is not None and maker.op_type in ("DequantizeLinear", "Gather"):
            value = maker.inputs[0]
        if value is not None and value.dtype == ir.DataType.INT8:
            yield value
