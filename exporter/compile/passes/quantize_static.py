"""Compute matrix products with constant weights in 8-bit integers, by ranges that were measured before."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from exporter.compile.passes.quantize_dynamic import quantized_weight, unfit_weight
from exporter.compile.rewrite.axes import PERMUTES
from exporter.compile.rewrite.builder import Builder, const_array
from exporter.compile.rewrite.refusals import RefusingPass

__all__ = ["QuantizeStaticPass", "quantized_activations"]

_STEPS = 255


def quantized_activations(model: ir.Model, least: int) -> list[ir.Value]:
    """The left operands of all products with a constant fp32 matrix of at least `least` elements, each once."""
    return list(dict.fromkeys(node.inputs[0] for node in _products(model, least) if node.inputs[0] is not None))


def _products(model: ir.Model, least: int) -> list[ir.Node]:
    return [node for node in model.graph if _is_product(node) and unfit_weight(node.inputs[1], least, (2,)) is None]


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and node.domain == ""


def _movers(x: ir.Value, products: Collection[ir.Node]) -> list[ir.Node]:
    """The chain of Reshape and Transpose that ends in x, first node first, where nothing but products reads what it makes."""
    if any(use.node not in products or use.idx != 0 for use in x.uses()) or x.is_graph_output():
        return []
    movers: list[ir.Node] = []
    node = x.producer()
    while node is not None and node.domain == "" and node.op_type in PERMUTES and node.inputs[0] is not None:
        movers.insert(0, node)
        source = node.inputs[0]
        if len(list(source.uses())) > 1 or source.is_graph_output():
            break
        node = source.producer()
    return movers


class QuantizeStaticPass(RefusingPass):
    """x W becomes dequantize(quantize(x)) dequantize(Q): the form that runtimes turn into integer products.

    1. x is quantized to 256 steps between the smallest and the greatest number that was measured; 0 is one of the steps, so
       that padding stays exact. What several products read is quantized once.
    2. Where Reshape and Transpose made x and only products read it, it is quantized before them: they move bytes instead of
       floats, and OpenVINO makes the integers where it computes the floats.
    3. W is stored as int8 with one scale per output column. Stacks over tasks stay as they are.

    Not exact: the caller states the tolerance.
    """

    # Not a NodeRewritePass: where x is quantized depends on all products that read it, before any of them is rewritten.

    def __init__(self, ranges: Mapping[str, tuple[float, float]], least: int = 1 << 14) -> None:
        """Set the ranges, and which products are quantized.

        Args:
            ranges: name of an activation -> (smallest, greatest) number; all of `quantized_activations`.
            least: a weight with fewer numbers stays as it is.
        """
        super().__init__()
        self.ranges = dict(ranges)
        self.least = least

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph with an activation whose range is not given.

        Raises:
            onnx_ir.passes.PreconditionError: names all of them.
        """
        missing = [value.name for value in quantized_activations(model, self.least) if value.name not in self.ranges]
        if missing:
            raise ir.passes.PreconditionError(
                f"{type(self).__name__}: expected a range for each activation, found none for {', '.join(map(str, missing))}"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize all products with large constant weights."""
        self.refusals.clear()
        for node in model.graph:
            if _is_product(node) and (unfit := unfit_weight(node.inputs[1], self.least, (2,))) is not None:
                self.refuse(node, unfit)
        build = Builder(model.graph, "")
        weights: dict[ir.Value, ir.Value] = {}
        activations: dict[ir.Value, ir.Value] = {}
        products = _products(model, self.least)
        for node in products:
            x, weight = node.inputs
            assert x is not None
            assert weight is not None
            if weight not in weights:
                weights[weight] = self._weight(weight, build)
            if x not in activations:
                activations[x] = self._quantized(x, set(products), build)
            model.graph.insert_before(node, build.take())
            node.replace_input_with(0, activations[x])
            node.replace_input_with(1, weights[weight])
        for weight in weights:
            if not weight.uses():
                del model.graph.initializers[str(weight.name)]
        return ir.passes.PassResult(model, modified=bool(products))

    def _quantized(self, x: ir.Value, products: Collection[ir.Node], build: Builder) -> ir.Value:
        movers = _movers(x, products)
        if not movers:
            return self._activation(x, self.ranges[str(x.name)], build)
        source, first = movers[0].inputs[0], movers[0]  # rule 2
        assert source is not None  # _movers
        first.replace_input_with(0, self._activation(source, self.ranges[str(x.name)], build))
        assert first.graph is not None  # it was found in one
        first.graph.insert_before(first, build.take())
        return x

    def _activation(self, x: ir.Value, limits: tuple[float, float], build: Builder) -> ir.Value:  # rule 1
        low, high = (float(limit) for limit in limits)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / _STEPS or 1.0)
        given = [build.constant(np.array(scale)), build.constant(np.array(round(-low / float(scale)), np.uint8))]
        numbers = build.node("QuantizeLinear", [x, *given], shape=x.shape, dtype=ir.DataType.UINT8, hint=f"{x.name}_uint8")
        return build.node("DequantizeLinear", [numbers, *given], shape=x.shape, dtype=x.dtype, hint=f"{x.name}_rounded")

    def _weight(self, weight: ir.Value, build: Builder) -> ir.Value:  # rule 3
        numbers, scales = quantized_weight(weight, build)
        array = const_array(scales)
        assert array is not None  # just made
        zeros = build.initializer(np.zeros(array.shape, np.int8), f"{weight.name}_zero")
        return build.node(
            "DequantizeLinear",
            [numbers, scales, zeros],
            attributes={"axis": 1},
            shape=weight.shape,
            dtype=weight.dtype,
            hint=f"{weight.name}_rounded",
        )
