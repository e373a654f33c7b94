"""Matrix products with constant weights in 8-bit integers, by a range for each row of the activations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.passes.quantize_dynamic import quantized_weight, unfit_product
from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.rewrite.match import producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten

__all__ = ["QuantizeRowsPass"]

_STEPS, _ZERO = 127, 128
# Of a row of zeros, whose quotients must not be NaN; no larger row is rounded up to it.
_TINY = np.finfo(np.float32).tiny
# Operator -> the largest size of its negative results: 0.16997 of Gelu by erf, 0.17004 by tanh.
_NEGATIVE = {"Relu": _TINY, "Sigmoid": _TINY, "Gelu": np.float32(0.1701)}


class QuantizeRowsPass(NodeRewritePass):
    """x W becomes quantize(x) Q, scaled back by row and by column: the result of a row depends on that row only.

    1. Weights and limits are those of QuantizeDynamic.
    2. Activations: the largest |x| of each row becomes 127 steps on either side of 128. The zero is a constant: a zero for each
       row would need a correction for each product. What several products read is quantized once. After an operator with a
       known bound of its negative results, such as Gelu, no minimum is computed.
    3. A row of zeros gives zeros. A NaN or an infinity changes its own row only.
    4. `fused` writes com.microsoft.MatMulIntegerToFloat, which scales the columns in the loop of the product. ONNX Runtime does
       not make it from MatMulInteger, Cast and Mul where no factor is computed at run time.

    Not exact: the caller states the tolerance.
    """

    op_types = ("MatMul",)

    def __init__(self, least: int = 1 << 14, fused: bool = False, slots: int | None = None) -> None:
        """Set which products are quantized, and how they are written.

        Args:
            least: a weight with fewer numbers stays as it is.
            fused: use the operator of ONNX Runtime instead of standard ones.
            slots: as for QuantizeDynamic.
        """
        super().__init__()
        self.least, self.fused, self.slots = least, fused, slots

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a product with a constant weight."""
        x, weight = node.inputs
        unfit = unfit_product(node, self.least, self.slots)  # rule 1
        if unfit is not None or x is None or weight is None:
            return unfit
        largest = build.once((x, "largest"), lambda: _largest(x, build))
        numbers = build.once((x, "rows"), lambda: _quantize(x, largest, build))
        columns = self._columns(node, numbers, quantized_weight(weight, build, 1 / _STEPS), build)
        output = node.outputs[0]
        return build.node("Mul", [columns, largest], shape=_shape(output), dtype=ir.DataType.FLOAT, hint=str(output.name))

    def _columns(self, node: ir.Node, numbers: ir.Value, weight: tuple[ir.Value, ir.Value], build: Builder) -> ir.Value:
        """The product with its columns scaled back."""
        output, zero = node.outputs[0], build.constant(np.array(_ZERO, np.uint8))
        shape, name = _shape(output), output.name
        if self.fused:  # rule 4
            return build.nodes(
                "MatMulIntegerToFloat",
                [numbers, weight[0], build.constant(np.array(1, np.float32)), weight[1], zero],
                shapes=[shape],
                dtypes=[ir.DataType.FLOAT],
                hints=[f"{name}_columns"],
                domain="com.microsoft",
            )[0]
        product = build.node(
            "MatMulInteger", [numbers, weight[0], zero], shape=shape, dtype=ir.DataType.INT32, hint=f"{name}_int32"
        )
        floats = build.node("Cast", [product], attributes={"to": 1}, shape=shape, dtype=ir.DataType.FLOAT, hint=f"{name}_cast")
        return build.node("Mul", [floats, weight[1]], shape=shape, dtype=ir.DataType.FLOAT, hint=f"{name}_columns")


def _largest(x: ir.Value, build: Builder) -> ir.Value:  # rules 2 and 3
    """The largest |x| of each row, [..., 1]; from maximum and minimum, because |x| would be written and read once more."""
    shape = known_shape(x)
    rows = None if shape is None else ir.Shape([*shape[:-1], 1])

    def of_rows(kind: str, inputs: list[ir.Value], hint: str) -> ir.Value:
        return build.node(kind, inputs, shape=rows, dtype=ir.DataType.FLOAT, hint=f"{x.name}_{hint}")

    high = of_rows("ReduceMax", [x, build.ints([-1])], "high")
    bound = next((bound for kind, bound in _NEGATIVE.items() if producer(x, kind) is not None), None)
    if bound is not None:
        return of_rows("Max", [high, build.constant(np.array(bound, np.float32))], "largest")
    negative = of_rows("Neg", [of_rows("ReduceMin", [x, build.ints([-1])], "low")], "negative")
    return of_rows("Max", [high, negative, build.constant(np.array(_TINY, np.float32))], "largest")


def _quantize(x: ir.Value, largest: ir.Value, build: Builder) -> ir.Value:  # rule 2
    shares = build.node("Div", [x, largest], shape=x.shape, dtype=ir.DataType.FLOAT, hint=f"{x.name}_shares")
    step = [build.constant(np.array(1 / _STEPS, np.float32)), build.constant(np.array(_ZERO, np.uint8))]
    return build.node("QuantizeLinear", [shares, *step], shape=x.shape, dtype=ir.DataType.UINT8, hint=f"{x.name}_uint8")


def _shape(value: ir.Value) -> ir.Shape | None:
    shape = known_shape(value)
    return None if shape is None else ir.Shape(shape)
