"""Keep arithmetic on lengths off the host, which ONNX Runtime's CUDA provider leaves to the CPU."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, const_scalar, known_shape
from exporter.compile.rewrite.match import measured_axes, producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["ShapesOnDevicePass"]

# From the result of an adapter to the value that it reads: two products with biases, an activation, a scale and a Reshape
_STEPS = 8


class ShapesOnDevicePass(NodeRewritePass):
    """Lengths that are computed from lengths are replaced where a rule applies, bit-exact.

    1. Expand(x, Concat(…, the length of v, …)): the target is the shape of a slice of v that has this length on the same axis
       and 1 elsewhere. Constants in the Concat are 1 or the lengths of x, so that 1 gives the same result.
    2. Reshape(x, Concat(…, a length, …)) with positive constants otherwise: -1 stands for the length. With other constants, it
       takes the shape of a value that x was computed from, if that is the shape of the result.
    3. Gather(W, the first numbers of 0, 1, 2, …) becomes the first rows of W. W has as many rows as there are numbers.
    """

    op_types = ("Expand", "Gather", "Reshape")

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace an operator with a computed shape, or a Gather of consecutive rows."""
        return {"Expand": _expand, "Gather": _gather, "Reshape": _reshape}[node.op_type](node, build)


def _expand(node: ir.Node, build: Builder) -> Rewritten:  # rule 1
    x, target = node.inputs
    concat, shape = producer(target, "Concat"), known_shape(x)
    if concat is None or x is None:
        return None
    if shape is None:
        return Refusal("the shape of the input is not known", x)
    parts = [part for each in concat.inputs for part in _parts(each)]
    if len(parts) < len(shape) or None in parts:
        return Refusal("a part of the target is not one length", target)
    shape = (1,) * (len(parts) - len(shape)) + shape
    lengths = {axis: part for axis, part in enumerate(parts) if isinstance(part, ir.Value)}
    if any(axis not in lengths and part not in (1, shape[axis]) for axis, part in enumerate(parts)):
        return Refusal("a constant of the target is not a length of the input", target)
    if len(lengths) != 1:
        return Refusal(f"the target has {len(lengths)} lengths that are not constant")
    ((axis, length),) = lengths.items()
    found = _measured(length)
    if found is None:
        return Refusal("the length is not that of one axis of a value", length)
    source, own = found
    sizes = known_shape(source)
    assert sizes is not None  # _measured
    others = [other for other in range(len(sizes)) if other != own]
    thin: ir.Value = source
    if others:
        zeros, ones = build.ints([0] * len(others)), build.ints([1] * len(others))
        thin_shape = ir.Shape([dim if each == own else 1 for each, dim in enumerate(sizes)])
        thin = build.node("Slice", [source, zeros, ones, build.ints(others)], shape=thin_shape, dtype=source.dtype)
    rank = len(shape)
    if len(sizes) != rank or own != axis:
        goal = [-1 if each == axis else 1 for each in range(rank)]
        dims = ir.Shape([sizes[own] if each == axis else 1 for each in range(rank)])
        thin = build.node("Reshape", [thin, build.ints(goal)], shape=dims, dtype=source.dtype)
    sized = build.node("Shape", [thin], dtype=ir.DataType.INT64, shape=ir.Shape([rank]))
    return build.node("Expand", [x, sized], shape=node.outputs[0].shape, dtype=x.dtype, hint=node.outputs[0].name)


def _parts(value: ir.Value | None) -> list[ir.Value | int | None]:
    """The numbers of a constant, or a value that holds one number; None for a value of unknown size."""
    array = const_array(value)
    if array is not None:
        return [int(number) for number in array]
    return [value if known_shape(value) == (1,) else None]


def _measured(length: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(v, axis) of a value whose length on one axis the given vector of one number is."""
    shape = producer(length, "Shape")
    source = None if shape is None else shape.inputs[0]
    sizes = known_shape(source)
    if shape is None or source is None or sizes is None:
        return None
    axes = measured_axes(shape, len(sizes))
    return (source, axes[0]) if len(axes) == 1 else None


def _reshape(node: ir.Node, build: Builder) -> Rewritten:  # rule 2
    x, target = node.inputs
    concat = producer(target, "Concat")
    if concat is None:
        return None
    parts = [part for each in concat.inputs for part in _parts(each)]
    numbers = [-1 if isinstance(part, ir.Value) else part for part in parts]
    goal: ir.Value | None = None
    if numbers.count(-1) == 1 and all(number is not None and (number > 0 or number == -1) for number in numbers):
        goal = build.ints(number for number in numbers if number is not None)
    elif (source := _of_shape(x, known_shape(node.outputs[0]))) is not None:
        goal = build.node("Shape", [source], dtype=ir.DataType.INT64, shape=ir.Shape([len(numbers)]))
    if goal is None:
        return Refusal("the target is not one length and positive constants, and no value has that shape", target)
    return build.node("Reshape", [x, goal], shape=node.outputs[0].shape, dtype=node.outputs[0].dtype)


def _of_shape(x: ir.Value | None, shape: tuple[int | ir.SymbolicDim, ...] | None) -> ir.Value | None:
    """A value of that shape from which x is computed, a few operators before."""
    found = [x]
    for _ in range(_STEPS):
        nodes = [node for value in found if value is not None and (node := value.producer()) is not None]
        found = [value for node in nodes for value in node.inputs if value is not None and const_array(value) is None]
        for value in found:
            if shape is not None and known_shape(value) == shape:
                return value
    return None


def _gather(node: ir.Node, build: Builder) -> Rewritten:  # rule 3
    weight, chosen = node.inputs
    part = producer(chosen, "Slice")
    sizes = known_shape(weight)
    if weight is None or chosen is None or part is None or node.attributes.get_int("axis", 0) != 0:
        return None
    numbers = const_array(part.inputs[0])
    if numbers is None or numbers.size != max(numbers.shape) or not np.array_equal(numbers.ravel(), np.arange(numbers.size)):
        return None
    axis = numbers.ndim - 1
    starts, ends, axes, steps = [*part.inputs[1:], None, None][:4]
    if not (numbers.shape[axis] == numbers.size and const_scalar(starts) == 0 and _number(steps, 1) == 1):
        return Refusal("the rows are not the first ones", chosen)
    if _number(axes, 0) not in (axis, -1) or sizes is None or sizes[0] != numbers.size:
        return Refusal("the table has another number of rows", weight)
    count = (known_shape(chosen) or (None,))[-1]
    rows = build.node(
        "Slice",
        [weight, starts, ends, build.ints([0])],
        shape=None if count is None else ir.Shape([count, *sizes[1:]]),
        dtype=weight.dtype,
        hint=f"{node.outputs[0].name}_rows",
    )
    if axis == 0:
        return rows
    return build.node("Unsqueeze", [rows, build.ints(range(axis))], shape=node.outputs[0].shape, dtype=weight.dtype)


def _number(value: ir.Value | None, default: int) -> float | None:
    """The number of an optional input of one element."""
    return default if value is None else const_scalar(value)
