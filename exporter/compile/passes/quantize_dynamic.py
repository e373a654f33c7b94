"""Computes matrix products with constant weights in 8-bit integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, replace_value

__all__ = ["QuantizeDynamicPass", "quantized_weight"]

_LARGEST = 127


class QuantizeDynamicPass(ir.passes.InPlacePass):
    """x W becomes quantize(x) Q, scaled back; W stays in the file as int8 Q and one scale per output column.

    1. W is constant, fp32, [in, out] or a stack [T, in, out], and has at least `least` elements: below, quantizing x costs more
       than the product.
    2. Weights: Q = round(W / s), s = max |column| / 127, symmetric; a stack has scales per task and column.
    3. Activations: DynamicQuantizeLinear measures the range of x at run time, so that no calibration is needed. What several
       products read is quantized once.

    The products are written as MatMulInteger, Cast and Mul, which every ONNX runtime knows and ONNX Runtime fuses into one
    operator. Not exact: the caller states the tolerance.
    """

    def __init__(self, least: int = 1 << 14) -> None:
        super().__init__()
        self.least = least

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        activations: dict[ir.Value, tuple[ir.Value, ...]] = {}
        modified = False
        for node in list(model.graph):
            if node.op_type != "MatMul" or node.domain != "":
                continue
            x, weight = node.inputs
            if x is None or weight is None or not self._fits(weight):
                continue
            if weight not in weights:
                weights[weight] = quantized_weight(weight, build)
            if x not in activations:
                activations[x] = tuple(_quantize(x, build))
            model.graph.insert_before(node, [*build.take(), *_product(node, activations[x], weights[weight], build)])
            model.graph.remove(node, safe=True)
            modified = True
        if modified:
            for weight in weights:
                if not weight.uses():
                    del model.graph.initializers[str(weight.name)]
        return ir.passes.PassResult(model, modified=modified)

    def _fits(self, weight: ir.Value) -> bool:  # rule 1
        array = const_array(weight)
        return array is not None and array.dtype == np.float32 and array.ndim in (2, 3) and array.size >= self.least


def quantized_weight(weight: ir.Value, build: Builder) -> tuple[ir.Value, ir.Value]:  # rule 2
    array = const_array(weight)
    assert array is not None  # _fits
    scale = np.abs(array).max(axis=-2, keepdims=True).astype(np.float32) / np.float32(_LARGEST)
    # A column of zeros has any scale; none of the quantized ones is -128, so that no sum of two products saturates.
    scale = np.where(scale == 0, np.float32(1), scale)
    numbers = np.clip(np.rint(array / scale), -_LARGEST, _LARGEST).astype(np.int8)
    scales = scale if array.ndim == 3 else scale.reshape(-1)
    return build.initializer(numbers, f"{weight.name}_int8"), build.initializer(scales, f"{weight.name}_scale")


def _quantize(x: ir.Value, build: Builder) -> tuple[ir.Value, ...]:  # rule 3
    return tuple(
        build.nodes(
            "DynamicQuantizeLinear",
            [x],
            shapes=[x.shape, ir.Shape([]), ir.Shape([])],
            dtypes=[ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8],
            hints=[f"{x.name}_uint8", f"{x.name}_scale", f"{x.name}_zero"],
        )
    )


def _product(
    node: ir.Node, activation: tuple[ir.Value, ...], weight: tuple[ir.Value, ir.Value], build: Builder
) -> list[ir.Node]:
    output = node.outputs[0]
    numbers, scale, zero = activation
    shape, name = known_shape(output), output.name
    kept = None if shape is None else ir.Shape(shape)
    product = build.node("MatMulInteger", [numbers, weight[0], zero], shape=kept, dtype=ir.DataType.INT32, hint=f"{name}_int32")
    floats = build.node("Cast", [product], attributes={"to": 1}, shape=kept, dtype=ir.DataType.FLOAT, hint=f"{name}_cast")
    scales = build.node("Mul", [scale, weight[1]], shape=weight[1].shape, dtype=ir.DataType.FLOAT, hint=f"{name}_scales")
    result = build.node("Mul", [floats, scales], shape=kept, dtype=ir.DataType.FLOAT, hint=str(name))
    replace_value(output, result)
    return build.take()
