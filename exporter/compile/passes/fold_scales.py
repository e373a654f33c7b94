"""Move factors from the results of a linear layer into its weights."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import PERMUTES
from exporter.compile.rewrite.builder import Builder, const_array, const_scalar, known_shape
from exporter.compile.rewrite.match import Linear, match_linear, operands, second_reader
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["FoldScalesPass"]


class FoldScalesPass(NodeRewritePass):
    """(x W + b) x c with a scalar c becomes x (W c) + (b c), equal up to rounding.

    A Reshape or Transpose may stand in between. Nothing else may read x W + b. If two branches scale one weight of the trunk,
    it is scaled once.
    """

    op_types = ("Mul",)
    keeps_outputs = True

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a scaled linear layer by one with scaled weights."""
        for x, c in operands(node):
            factor = const_scalar(c)
            if factor is None:
                continue
            linear = _before_moves(x)
            if linear is None or isinstance(linear, Refusal):
                return linear
            if linear.bias is None:
                return Refusal("nothing is added to the product", x)
            if const_array(linear.weight) is None:
                return Refusal("the weight is transposed at run time", linear.weight)
            if known_shape(x) is None or known_shape(x) != known_shape(node.outputs[0]):
                return Refusal("the shape of the result is not known, or the factor adds an axis", x)
            linear.product.replace_input_with(1, _times(linear.weight, factor, build))
            linear.total.replace_input_with(list(linear.total.inputs).index(linear.bias), _times(linear.bias, factor, build))
            return x
        return None


def _before_moves(value: ir.Value) -> Linear | Refusal | None:
    """The linear layer whose elements `value` holds in another order, if nothing else reads them on the way."""
    refusal: Refusal | None = None
    while (node := value.producer()) is not None and node.domain == "" and node.op_type in PERMUTES:
        readers = second_reader(value)
        if readers and refusal is None:
            refusal = Refusal(f"the result of the linear layer {readers}", value)
        if node.inputs[0] is None:
            return None
        value = node.inputs[0]
    linear = match_linear(value)
    return refusal if refusal is not None and linear is not None else linear


def _times(value: ir.Value, factor: float, build: Builder) -> ir.Value:
    array = const_array(value)
    assert array is not None  # rewrite
    numbers = array * array.dtype.type(factor)
    return build.once((value, factor), lambda: build.initializer(numbers, f"{value.name}_scaled"))
