"""Which rows an operator reads, and which rows of its inputs some rows of its result need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array, known_shape, static_target
from exporter.compile.rewrite.operators import BINARY, UNARY
from exporter.compile.rewrite.rows import Each, Range, Rows, Single, at

__all__ = ["ALL", "asks", "reads"]

ALL = None  # everything is read
_ELEMENTWISE = UNARY | BINARY | {"Where"}
_Dims = tuple[int | ir.SymbolicDim, ...]


def reads(node: ir.Node) -> Rows | None:
    """The rows that a Slice, Gather, GatherElements or GatherND takes from its first input; None for all others.

    Along the first axis there is nothing to save: it is the caller's batch.
    """
    shape = known_shape(node.inputs[0]) if node.inputs and node.domain == "" else None
    if shape is None or const_array(node.inputs[0]) is not None:
        return None
    rule = {"Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd}.get(node.op_type)
    rows = rule(node, shape) if rule else None
    return rows if rows is not None and rows.axis > 0 and shape[rows.axis] not in (1, rows.count) else None


def _slice(node: ir.Node, shape: _Dims) -> Rows | None:
    after = known_shape(node.outputs[0])
    arrays = [const_array(value) for value in node.inputs[1:]]
    if after is None or len(arrays) < 2 or any(array is None or array.size != 1 for array in arrays):
        return None
    start, stop, axis, step = [int(array.item()) for array in arrays if array is not None] + [0, 1][len(arrays) - 2 :]
    return Rows(axis % len(shape), Range(start, stop, step), after[axis]) if step > 0 else None


def _gather(node: ir.Node, shape: _Dims) -> Rows | None:
    axis, index = node.attributes.get_int("axis", 0) % len(shape), node.inputs[1]
    dims = known_shape(index)
    listed = const_array(index)
    if index is None or dims is None or len(dims) > 1:
        return None
    if listed is not None:
        return at(axis, listed.reshape(-1).tolist())
    return Rows(axis, Single(index), 1) if dims in ((), (1,)) else None


def _gather_elements(node: ir.Node, shape: _Dims) -> Rows | None:
    """x[b, index[b], :] by an index that is repeated along the other axes."""
    index = node.inputs[1]
    if node.attributes.get_int("axis", 0) % len(shape) != 1 or known_shape(index) != (shape[0], 1, *shape[2:]):
        return None
    while index is not None and len(dims := known_shape(index) or ()) > 1:
        made = index.producer()
        if made is None or made.domain != "" or made.op_type not in ("Expand", "Unsqueeze") or dims[0] != shape[0]:
            return None
        index = made.inputs[0]
    return _each(index, shape)


def _each(index: ir.Value | None, shape: _Dims) -> Rows | None:
    fits = index is not None and known_shape(index) == shape[:1] and index.dtype == ir.DataType.INT64
    return Rows(1, Each(index), 1) if index is not None and fits else None


def _gather_nd(node: ir.Node, shape: _Dims) -> Rows | None:
    """x[b, index[b]], where b counts the batch: the indices are [0, 1, …] beside the index."""
    if node.attributes.get_int("batch_dims", 0) != 0 or node.inputs[1] is None:
        return None
    pairs = node.inputs[1].producer()
    if pairs is None or pairs.op_type != "Concat" or len(pairs.inputs) != 2 or known_shape(node.inputs[1]) != (shape[0], 2):
        return None
    columns = [_column(value) for value in pairs.inputs]
    count = columns[0].producer() if columns[0] is not None else None
    if count is None or count.op_type != "Range" or columns[1] is None:
        return None
    first, step = const_array(count.inputs[0]), const_array(count.inputs[2])
    if first is None or first.item() != 0 or step is None or step.item() != 1:
        return None
    return _each(columns[1], shape) if known_shape(columns[0]) == shape[:1] else None


def _column(value: ir.Value | None) -> ir.Value | None:
    """v of v[:, None]."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Unsqueeze" and len(known_shape(value) or ()) == 2 else None


def asks(node: ir.Node, rows: Rows) -> list[Rows | None] | None:
    """What the operator needs of each input for those rows of its result; None where it needs all of them."""
    shapes = [known_shape(value) for value in node.inputs]
    after, first = known_shape(node.outputs[0]), shapes[0] if shapes else None
    if first is None or after is None or node.domain != "" or len(node.outputs) != 1:
        return None
    rank, rest, kind = len(after), [ALL] * (len(shapes) - 1), node.op_type
    if kind in _ELEMENTWISE:
        return _aligned(shapes, after, rows)
    if kind == "MatMul":
        return _of_product(shapes, after, rows)
    if kind in ("LayerNormalization", "Clip"):
        last = rank if kind == "Clip" else node.attributes.get_int("axis", -1) % rank
        return [rows, *rest] if rows.axis < last else None
    if kind in ("Softmax", "LogSoftmax") and node.attributes.get_int("axis", -1) % rank != rows.axis:
        return [rows]
    if kind in ("Concat", "GatherElements"):
        fixed = {rows.axis, 0} if isinstance(rows.which, Each) else {rows.axis}
        alike = all(shape is not None and all(shape[axis] == after[axis] for axis in fixed) for shape in shapes)
        return [rows for _ in shapes] if alike and node.attributes.get_int("axis", 0) % rank not in fixed else None
    axis = _source(node, rows.axis, first, after)
    # The batch must stay first, or Each would count something else.
    if axis is None or (isinstance(rows.which, Each) and _source(node, 0, first, after) != 0):
        return None
    asked = rows.along(axis)
    if kind == "Reshape" and static_target(tuple(asked.narrow(first)), tuple(rows.narrow(after))) is None:
        return None
    return [asked, *rest]


def _aligned(shapes: Sequence[_Dims | None], after: _Dims, rows: Rows) -> list[Rows | None] | None:
    """Of operands that are broadcast against each other."""
    return None if None in shapes else [_of_operand(shape, after, rows) for shape in shapes if shape is not None]


def _of_operand(shape: _Dims, after: _Dims, rows: Rows) -> Rows | None:
    lacks = len(after) - len(shape)
    axis = rows.axis - lacks
    if axis < 0 or shape[axis] == 1:
        return ALL
    batched = not isinstance(rows.which, Each) or (lacks == 0 and shape[0] == after[0])
    return replace(rows, axis=axis, lacks=None if batched else lacks)


def _of_product(shapes: Sequence[_Dims | None], after: _Dims, rows: Rows) -> list[Rows | None] | None:
    left, right = shapes
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    if rows.axis < len(after) - 2:  # some of the matrices that are multiplied pair by pair
        return _aligned(shapes, after, rows)
    if rows.axis == len(after) - 2:  # rows of the left matrix
        return [_of_operand(left, after, rows), ALL]
    # Columns of the right one.
    return None if isinstance(rows.which, Each) else [ALL, rows.along(len(right) - 1)]


def _source(node: ir.Node, axis: int, before: _Dims, after: _Dims) -> int | None:
    """Where the axis of the result is in the first input, for operators that leave its positions alone."""
    kind, rank = node.op_type, len(after)
    if kind == "Transpose":
        return node.attributes.get_ints("perm", list(reversed(range(rank))))[axis]
    if kind in ("Squeeze", "Unsqueeze"):
        return _unsqueezed(node, rank, axis)
    if kind == "Reshape":
        # Alike up to the axis, or from it on.
        other = len(before) - (rank - axis)
        return axis if before[: axis + 1] == after[: axis + 1] else other if before[other:] == after[axis:] else None
    if kind not in ("Slice", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2"):
        return None
    place = 3 if kind == "Slice" else 1
    axes = const_array(node.inputs[place]) if len(node.inputs) > place else None
    if axes is None or axes.size == 0:
        return None
    touched = {int(each) % len(before) for each in axes.reshape(-1)}
    gone = touched if kind != "Slice" and not node.attributes.get_int("keepdims", 1) else set()
    found = [each for each in range(len(before)) if each not in gone][axis]
    return None if found in touched else found


def _unsqueezed(node: ir.Node, rank: int, axis: int) -> int | None:
    """Where the output's axis is in the input of a Squeeze or Unsqueeze; None where it is new, or the axes are not known."""
    axes = const_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    if node.op_type == "Unsqueeze":
        kept = [each for each in range(rank) if each not in {int(new) % rank for new in axes.reshape(-1)}]
        return kept.index(axis) if axis in kept else None
    before = rank + axes.size
    return [each for each in range(before) if each not in {int(old) % before for old in axes.reshape(-1)}][axis]
