"""The rules of the operator table in `axes`: one small function for each way in which operators read the axes of their inputs.

Each rule has the signature of `axes.sources` and answers the same question. The shapes of all inputs and of the first result
have a known rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array

Dim = int | ir.SymbolicDim
Sources = tuple[int | None, ...] | None
Rule = Callable[[ir.Node, int], Sources]


def shape_of(value: ir.Value | None) -> tuple[Dim, ...]:
    """Return the dimensions; a missing input has none."""
    return () if value is None or value.shape is None else tuple(value.shape)


def same(one: Dim, other: Dim) -> bool:
    """Return whether two lengths are known to be equal."""
    return one == other and not (isinstance(one, ir.SymbolicDim) and one.value is None)


def only_first(node: ir.Node, source: int | None) -> Sources:
    """Return the answer of an operator whose other inputs are read whole."""
    return (source, *[None] * (len(node.inputs) - 1))


def worked_axis(node: ir.Node, default: int, rank: int) -> int:
    """Return the axis that the attribute of an operator names, counted from 0."""
    return node.attributes.get_int("axis", default) % rank


def _input_axes(node: ir.Node, index: int, rank: int) -> set[int] | None:
    """Return the axes that a constant input lists; None where it is missing or no constant."""
    array = const_array(node.inputs[index]) if len(node.inputs) > index else None
    return None if array is None else {int(axis) % rank for axis in array.reshape(-1)}


def _kept(rank: int, gone: Iterable[int]) -> list[int]:
    removed = set(gone)
    return [axis for axis in range(rank) if axis not in removed]


def aligned(shapes: Sequence[tuple[Dim, ...]], after: tuple[Dim, ...], axis: int) -> Sources:
    """Return the answer for operands that are broadcast against each other."""
    found: list[int | None] = []
    for shape in shapes:
        own = axis - (len(after) - len(shape))
        if own < 0 or shape[own] == 1:
            found.append(None)
        elif same(shape[own], after[axis]):
            found.append(own)
        else:
            return None  # one of the two lengths may be 1
    return tuple(found)


def broadcast(node: ir.Node, axis: int) -> Sources:
    """Rule of operators whose operands broadcast against each other."""
    return aligned([shape_of(value) for value in node.inputs], shape_of(node.outputs[0]), axis)


def each_position(node: ir.Node, axis: int) -> Sources:
    """Rule of operators that compute each element of the first input by itself."""
    return only_first(node, axis)


def expand(node: ir.Node, axis: int) -> Sources:
    """Rule of Expand, whose second input holds lengths."""
    found = aligned([shape_of(node.inputs[0])], shape_of(node.outputs[0]), axis)
    return None if found is None else (found[0], None)


def constant(node: ir.Node, axis: int) -> Sources:  # noqa: ARG001 - the signature is Rule's
    """Rule of ConstantOfShape, whose result is the same at each position."""
    return tuple(None for _ in node.inputs)


def transpose(node: ir.Node, axis: int) -> Sources:
    """Rule of Transpose."""
    rank = len(shape_of(node.outputs[0]))
    return (node.attributes.get_ints("perm", list(reversed(range(rank))))[axis],)


def squeeze(node: ir.Node, axis: int) -> Sources:
    """Rule of Squeeze, if it names its axes; otherwise it would also remove an axis that has length 1 only at some batch."""
    rank = len(shape_of(node.inputs[0]))
    gone = _input_axes(node, 1, rank)
    return None if gone is None else only_first(node, _kept(rank, gone)[axis])


def unsqueeze(node: ir.Node, axis: int) -> Sources:
    """Rule of Unsqueeze."""
    rank = len(shape_of(node.outputs[0]))
    new = _input_axes(node, 1, rank)
    kept = _kept(rank, new or ())
    return None if new is None else only_first(node, kept.index(axis) if axis in kept else None)


def reshape(node: ir.Node, axis: int) -> Sources:
    """Rule of Reshape and Flatten: the shapes must be equal up to the axis, or from it on."""
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    other = len(before) - (len(after) - axis)
    if len(before) > axis and all(map(same, before[: axis + 1], after[: axis + 1])):
        return only_first(node, axis)
    return only_first(node, other) if other >= 0 and all(map(same, before[other:], after[axis:])) else None


def tile(node: ir.Node, axis: int) -> Sources:
    """Rule of Tile, if the axis has one position or is not repeated."""
    before, after, repeats = shape_of(node.inputs[0]), shape_of(node.outputs[0]), const_array(node.inputs[1])
    if before[axis] == 1:
        return only_first(node, None)
    once = same(before[axis], after[axis]) or (repeats is not None and repeats[axis] == 1)
    return only_first(node, axis) if once else None


def along_axis(node: ir.Node, axis: int) -> Sources:
    """Rule of operators that mix or split the positions of one axis, along all other axes."""
    worked = worked_axis(node, 0 if node.op_type == "Split" else -1, len(shape_of(node.outputs[0])))
    return only_first(node, axis) if axis != worked else None


def cumulate(node: ir.Node, axis: int) -> Sources:
    """Rule of CumSum, along all axes but the one that it sums over."""
    worked = _input_axes(node, 1, len(shape_of(node.outputs[0])))
    return only_first(node, axis) if worked is not None and axis not in worked else None


def trilu(node: ir.Node, axis: int) -> Sources:
    """Rule of Trilu, along the axes before the last two."""
    return only_first(node, axis) if axis < len(shape_of(node.outputs[0])) - 2 else None


def normalize(node: ir.Node, axis: int) -> Sources:
    """Rule of LayerNormalization, along the axes before those that it normalizes."""
    after = shape_of(node.outputs[0])
    return broadcast(node, axis) if axis < worked_axis(node, -1, len(after)) else None


def each_example(node: ir.Node, axis: int) -> Sources:
    """Rule of operators that compute each position of axis 0 by itself."""
    return only_first(node, axis) if axis == 0 else None


def cut(node: ir.Node, axis: int) -> Sources:
    """Rule of Slice, along the axes that it does not cut."""
    before = shape_of(node.inputs[0])
    worked = _input_axes(node, 3, len(before))
    if worked is None and [*node.inputs, None, None][3] is None:
        count = shape_of(node.inputs[1])[0]
        worked = set(range(count)) if isinstance(count, int) else None
    return only_first(node, axis) if worked is not None and axis not in worked else None


def pad(node: ir.Node, axis: int) -> Sources:
    """Rule of Pad, along the axes that it does not pad."""
    rank, amounts = len(shape_of(node.inputs[0])), const_array(node.inputs[1])
    given = [*node.inputs, None, None][3]
    axes = const_array(given)
    if amounts is None or (given is not None and axes is None):
        return None
    order = list(range(rank)) if axes is None else [int(each) % rank for each in axes]
    padded = {each for each, low, high in zip(order, amounts[: len(order)], amounts[len(order) :], strict=True) if low or high}
    return only_first(node, axis) if axis not in padded else None


def concat(node: ir.Node, axis: int) -> Sources:
    """Rule of Concat, along all axes but the one that it joins."""
    after = shape_of(node.outputs[0])
    alike = all(same(shape_of(value)[axis], after[axis]) for value in node.inputs)
    return tuple(axis for _ in node.inputs) if alike and axis != worked_axis(node, 0, len(after)) else None


def _through_reduction(node: ir.Node, axis: int, worked: set[int]) -> Sources:
    gone = () if node.attributes.get_int("keepdims", 1) else worked
    source = _kept(len(shape_of(node.inputs[0])), gone)[axis]
    return only_first(node, source) if source not in worked else None


def arg_reduce(node: ir.Node, axis: int) -> Sources:
    """Rule of ArgMax and ArgMin."""
    return _through_reduction(node, axis, {worked_axis(node, 0, len(shape_of(node.inputs[0])))})


def reduce(node: ir.Node, axis: int) -> Sources:
    """Rule of the reductions, along the axes that stay."""
    rank = len(shape_of(node.inputs[0]))
    if [*node.inputs, None][1] is not None:
        worked = _input_axes(node, 1, rank)
    else:
        worked = {int(each) % rank for each in node.attributes.get_ints("axes", ())}
    if worked is None:
        return None
    if not worked and not node.attributes.get_int("noop_with_empty_axes", 0):
        return None  # all axes are reduced
    return _through_reduction(node, axis, worked)
