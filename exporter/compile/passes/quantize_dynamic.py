"""Compute matrix products with constant weights in 8-bit integers."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from exporter.compile.pair_sums import column_scales
from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import producer, second_reader
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["QuantizeDynamicPass", "quantized_weight", "unfit_product", "unfit_weight"]

_LARGEST = 127
# Operators between the product of a head and the mask of its labels.
_OF_HEADS = ("Add", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Identity", "Flatten")


class QuantizeDynamicPass(NodeRewritePass):
    """x W becomes quantize(x) Q, scaled back; W stays in the file as int8 Q and one scale per output column.

    1. W is constant, fp32, [in, out] or a stack [T, in, out], and has at least `least` elements: below, quantizing x costs more
       than the product. In a routed graph, each row gathers its W from the stack: the numbers of the stack are gathered
       instead, so that the logits are those of the graph of all tasks, which multiplies with the stack. Heads with different
       numbers of labels stay in floats, as in that graph, which does not stack them. A stack whose tasks come later, in a graph
       with slots, counts as one of all slots, whatever tasks are there when the graph is compiled.
    2. Weights: Q = round(W / s), symmetric; s keeps sums of two products within 16 bits, which processors without VNNI need
       (`column_scales`). A stack has scales per task and column.
    3. Activations: DynamicQuantizeLinear measures one range for all of x at run time: all texts of a batch and their padding.
       The result of a text depends on them, which QuantizeRows avoids. What several products read is quantized once.

    The products are written as MatMulInteger, Cast and Mul, which every ONNX runtime knows and ONNX Runtime fuses into one
    operator. Not exact: the caller states the tolerance.
    """

    op_types = ("MatMul",)

    def __init__(self, least: int = 1 << 14, slots: int | None = None) -> None:
        """Set which products are quantized.

        Args:
            least: a weight with fewer numbers stays as it is.
            slots: number of tasks of the stacks in a graph with slots; None for those that are there.
        """
        super().__init__()
        self.least, self.slots = least, slots

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a product with a constant weight."""
        x, weight = node.inputs
        unfit = unfit_product(node, self.least, self.slots)  # rule 1
        if unfit is not None or x is None or weight is None:
            return unfit
        return _product(node, _quantized(x, build), quantized_weight(weight, build), build)


def unfit_product(node: ir.Node, least: int, slots: int | None) -> Refusal | None:
    """Why a product stays in floats that is quantized at run time."""
    return unfit_weight(node.inputs[1], least, (2, 3), slots) or _is_masked_head(node)


def unfit_weight(weight: ir.Value | None, least: int, ranks: Collection[int], slots: int | None = None) -> Refusal | None:
    """Why a product with the right operand `weight` stays in floats."""
    stack = _gathered_stack(weight)
    array = const_array(weight if stack is None else stack)
    if array is None:
        return Refusal("the right operand is computed at run time")
    if array.dtype != np.float32:
        return Refusal(f"the weight is {array.dtype}, not float32", weight)
    size = array.size if stack is None or slots is None else array[0].size * slots
    if size < least:
        return Refusal(f"the weight has fewer than {least:,} numbers: quantizing its operand would cost more", weight)
    if array.ndim not in ranks:
        return Refusal(f"the weight has {array.ndim} axes", weight)
    return None


def _gathered_stack(weight: ir.Value | None) -> ir.Value | None:
    """The constant stack [T, in, out] from which each row gathers the weight, or None."""
    gather = producer(weight, "Gather")
    if gather is None or gather.attributes.get_int("axis", 0) != 0:
        return None
    array = const_array(gather.inputs[0])
    return gather.inputs[0] if array is not None and array.ndim == 3 else None


def _is_masked_head(node: ir.Node) -> Refusal | None:
    """Why a product with gathered weights stays in floats: its columns beyond a task's labels become minus infinity."""
    if _gathered_stack(node.inputs[1]) is None:
        return None
    value = node.outputs[0]
    while second_reader(value) is None:
        reader = next(iter(value.uses())).node
        if reader.op_type == "Where":
            masks = [const_array(each) for each in reader.inputs[1:]]
            if any(mask is not None and np.isneginf(mask).all() for mask in masks):
                return Refusal(
                    "it is a head with another number of labels per task, which the graph of all tasks does not stack"
                )
        if reader.op_type not in _OF_HEADS:
            break
        value = reader.outputs[0]
    return None


def quantized_weight(weight: ir.Value, build: Builder, unit: float = 1.0) -> tuple[ir.Value, ir.Value]:  # rule 2
    """The weight as int8 numbers and one scale per column times `unit`, made once."""
    if (stack := _gathered_stack(weight)) is not None:
        return _gathered(weight, quantized_weight(stack, build, unit), build)
    array = const_array(weight)
    assert array is not None  # unfit_weight
    known = build.known((weight, "int8")), build.known((weight, "scale"))
    if known[0] is not None and known[1] is not None:
        return known[0], known[1]
    scale = column_scales(array)
    numbers = np.clip(np.rint(array / scale), -_LARGEST, _LARGEST).astype(np.int8)
    scales = (scale if array.ndim == 3 else scale.reshape(-1)) * np.float32(unit)
    return (
        build.once((weight, "int8"), lambda: build.initializer(numbers, f"{weight.name}_int8")),
        build.once((weight, "scale"), lambda: build.initializer(scales, f"{weight.name}_scale")),
    )


def _gathered(weight: ir.Value, stack: tuple[ir.Value, ir.Value], build: Builder) -> tuple[ir.Value, ir.Value]:
    """The numbers and scales that each row gathers from those of a stack."""
    gather = weight.producer()
    assert gather is not None  # _gathered_stack
    numbers, scales = stack
    shape = known_shape(weight)
    shapes = (None, None) if shape is None else (ir.Shape(shape), ir.Shape([shape[0], 1, shape[2]]))
    kinds = (ir.DataType.INT8, ir.DataType.FLOAT)

    def gathered(index: int, hint: str) -> ir.Value:
        inputs, name = [(numbers, scales)[index], gather.inputs[1]], f"{weight.name}_{hint}"
        make = build.node
        return build.once(
            (weight, hint),
            lambda: make("Gather", inputs, attributes={"axis": 0}, shape=shapes[index], dtype=kinds[index], hint=name),
        )

    return gathered(0, "int8"), gathered(1, "scale")


def _quantized(x: ir.Value, build: Builder) -> tuple[ir.Value, ir.Value, ir.Value]:  # rule 3
    """The activation as uint8 numbers, their scale and their zero, made once."""
    numbers = build.once((x, "uint8"), lambda: _quantize(x, build))
    maker = numbers.producer()
    assert maker is not None  # _quantize
    _, scale, zero = maker.outputs
    return numbers, scale, zero


def _quantize(x: ir.Value, build: Builder) -> ir.Value:
    return build.nodes(
        "DynamicQuantizeLinear",
        [x],
        shapes=[x.shape, ir.Shape([]), ir.Shape([])],
        dtypes=[ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8],
        hints=[f"{x.name}_uint8", f"{x.name}_scale", f"{x.name}_zero"],
    )[0]


def _product(
    node: ir.Node, activation: tuple[ir.Value, ir.Value, ir.Value], weight: tuple[ir.Value, ir.Value], build: Builder
) -> ir.Value:
    output = node.outputs[0]
    numbers, scale, zero = activation
    shape, name = known_shape(output), output.name
    kept = None if shape is None else ir.Shape(shape)
    product = build.node("MatMulInteger", [numbers, weight[0], zero], shape=kept, dtype=ir.DataType.INT32, hint=f"{name}_int32")
    floats = build.node("Cast", [product], attributes={"to": 1}, shape=kept, dtype=ir.DataType.FLOAT, hint=f"{name}_cast")
    scales = build.node("Mul", [scale, weight[1]], shape=weight[1].shape, dtype=ir.DataType.FLOAT, hint=f"{name}_scales")
    return build.node("Mul", [floats, scales], shape=kept, dtype=ir.DataType.FLOAT, hint=str(name))
