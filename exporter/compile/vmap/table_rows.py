"""Lookups in tables that are task weights, such as the embeddings of a fine-tune: each row reads the table of its task."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import MOVES
from exporter.compile.rewrite.builder import const_array, known_shape
from exporter.compile.rewrite.match import counts_from_zero
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Folded, Form, PerRow
from exporter.compile.vmap.row_layout import RowLayout

__all__ = ["look_up"]


def look_up(node: ir.Node, env: Env, layout: RowLayout) -> list[Form] | None:
    """Compute Gather(table, index) for rows, as Gather(tables of all tasks, index + task x length of a table).

    The indices may be those of each text, such as tokens, or the same for all, such as positions. In the latter case the result
    differs between rows nevertheless, and only operators that broadcast take it.

    Args:
        node: an operator of the template.
        env: the environment.
        layout: its layout.
    """
    if node.op_type != "Gather" or node.domain != "" or node.attributes.get_int("axis", 0) != 0:
        return None
    table, index = node.inputs
    arrays, dims, output = env.arrays(table), known_shape(index), node.outputs[0]
    if table is None or arrays is None or len({array.shape for array in arrays}) != 1 or index is None or dims is None:
        return None
    shared = index not in env and env.batch.axis(index) is None
    if shared:
        own, each = index, dims[1:] if dims and dims[0] == 1 else dims
    elif env.batch.axis(index) == 0 and layout.can_enter(index, 0) and env.can_fold(index):
        own, each = env.folded(index), dims[1:]
    else:
        return None
    build, int64 = env.build, ir.DataType.INT64
    length = build.constant(np.array(len(arrays[0]), np.int64))
    rows = layout.task_ids.shape
    starts = build.node("Mul", [layout.task_ids, length], shape=rows, dtype=int64, hint="starts")
    assert rows is not None  # [rows]
    if each:
        axes, shape = build.ints(range(1, len(each) + 1)), ir.Shape([rows[0], *(1 for _ in each)])
        starts = build.node("Unsqueeze", [starts, axes], shape=shape, dtype=int64)
    if index.dtype != int64:
        own = build.node("Cast", [own], attributes={"to": int(int64)}, shape=own.shape, dtype=int64)
    if _may_be_negative(index):
        # It counts from the end of the table of its task, not of the table before it.
        own = build.node("Mod", [own, length], shape=own.shape, dtype=int64)
    places = build.node("Add", [own, starts], shape=ir.Shape([rows[0], *each]), dtype=int64, hint=f"{index.name}_places")
    found = build.node(
        "Gather",
        [build.initializer(np.concatenate(arrays), str(table.name)), places],
        attributes={"axis": 0},
        shape=ir.Shape([rows[0], *each, *arrays[0].shape[1:]]),
        dtype=output.dtype,
        hint=f"{output.name}_rows",
    )
    return [PerRow(found) if shared else Folded(found)]


def _may_be_negative(index: ir.Value) -> bool:
    """Whether an index may be negative: token ids are not, and neither are positions."""
    array, node = const_array(index), index.producer()
    if array is not None:
        return bool((array < 0).any())
    if node is not None and node.domain == "" and node.op_type in MOVES | {"Cast"} and node.inputs[0] is not None:
        return _may_be_negative(node.inputs[0])
    return not (index.is_graph_input() or counts_from_zero(index))
