"""Rules for rows: which rows an operator selects, and which rows of its inputs some rows of its result need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from exporter.compile.rewrite.axes import ELEMENTWISE, OPERATORS, sources
from exporter.compile.rewrite.builder import const_array, known_shape, static_target
from exporter.compile.rewrite.match import counts_from_zero
from exporter.compile.rewrite.rows import Each, Range, Rows, Single, at

__all__ = ["ALL", "required_rows", "selected_rows"]

ALL = None  # everything is read
_Dims = tuple[int | ir.SymbolicDim, ...]


def selected_rows(node: ir.Node) -> Rows | None:
    """Return the rows that a Slice, Gather, GatherElements or GatherND takes from its first input; None for all others.

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
    """Return the rows of x[b, index[b], :], by an index that is repeated along the other axes."""
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
    """Return the rows of x[b, index[b]], where b counts the batch: the indices are [0, 1, …] next to the index."""
    if node.attributes.get_int("batch_dims", 0) != 0 or node.inputs[1] is None:
        return None
    pairs = node.inputs[1].producer()
    if pairs is None or pairs.op_type != "Concat" or len(pairs.inputs) != 2 or known_shape(node.inputs[1]) != (shape[0], 2):
        return None
    columns = [_column(value) for value in pairs.inputs]
    if not counts_from_zero(columns[0]) or columns[1] is None:
        return None
    return _each(columns[1], shape) if known_shape(columns[0]) == shape[:1] else None


def _column(value: ir.Value | None) -> ir.Value | None:
    """Return v of v[:, None]."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Unsqueeze" and len(known_shape(value) or ()) == 2 else None


def required_rows(node: ir.Node, rows: Rows) -> list[Rows | None] | None:
    """Return the rows of each input that the operator needs for `rows` of its result; None if it needs all of them."""
    shapes = [known_shape(value) for value in node.inputs]
    after, first = known_shape(node.outputs[0]), shapes[0] if shapes else None
    found = sources(node, rows.axis)
    if found is None or after is None or first is None or len(node.outputs) != 1 or not any(each is not None for each in found):
        return None
    if node.op_type == "MatMul" and min(len(shape or ()) for shape in shapes) < 2:
        return None
    if node.op_type == "Reshape":
        assert found[0] is not None  # the target has no such axis
        narrow = rows.along(found[0]).narrow(first)
        if static_target(tuple(narrow), tuple(rows.narrow(after))) is None:
            return None
    elif OPERATORS[node.op_type].sizes is not None:
        return None  # its lengths are an input, which would have to change as well
    if isinstance(rows.which, Each):
        return _each_of_inputs(node, rows, found, shapes, len(after))
    return [ALL if axis is None else rows.along(axis) for axis in found]


def _each_of_inputs(
    node: ir.Node, rows: Rows, found: Sequence[int | None], shapes: Sequence[_Dims | None], rank: int
) -> list[Rows | None] | None:
    """Return the required rows for one row per text; the batch must remain the first axis, because `Each` counts it."""
    batch = sources(node, 0)
    if batch is None:
        return None
    # Operands that are broadcast may lack the batch.
    broadcasts = node.op_type in ELEMENTWISE or (node.op_type == "MatMul" and rows.axis < rank - 1)
    required: list[Rows | None] = []
    for axis, first, shape in zip(found, batch, shapes, strict=True):
        if axis is None:
            required.append(ALL)
        elif first == 0:
            required.append(rows.along(axis))
        elif first is None and broadcasts and shape is not None:
            required.append(replace(rows, axis=axis, lacks=rank - len(shape)))
        else:
            return None
    return required
