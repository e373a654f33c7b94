"""Compute only the rows that are read."""

from __future__ import annotations

import logging
from collections.abc import Collection

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape, refuse_subgraphs, replace_value, static_target
from exporter.compile.rewrite.row_rules import ALL, required_rows, selected_rows
from exporter.compile.rewrite.rows import Rows, take, union, within

__all__ = ["PushSlicesPass"]

_logger = logging.getLogger(__name__)
_Required = list[tuple[ir.Node, list[Rows | None]]]


class PushSlicesPass(ir.passes.InPlacePass):
    """A Slice or Gather moves up through the operators that treat its axis independently; equal up to rounding.

    A head that reads only the first token makes the last layer compute only that token: q, attention output, feed-forward
    and adapters. k and v are read by every row and stay whole.

    1. Backwards, the rows that the readers of each value need are collected: the same ones, or everything. Constant positions
       of several readers are joined, unless that is the whole axis.
    2. An operator whose result is needed in part needs part of its inputs, as `required_rows` finds.
    3. Where needed rows meet a value that others need whole, a Slice or Gather takes them.
    4. Positions that are known only at run time (the end of each text) are moved where they are one per axis or one per row
       of the batch: others may be as many as the axis has. What is moved across cannot be something that they depend on: that
       has a reader that does not go through these rows, and is therefore read whole.
    """

    def requires(self, model: ir.Model) -> None:
        """Check that the graph has no subgraphs."""
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Collect the rows that are read, backwards, then take them."""
        graph = model.graph
        wanted: dict[ir.Value, dict[Rows | None, None]] = {value: {ALL: None} for value in graph.outputs}
        held: dict[ir.Value, Rows] = {}
        narrowed: _Required = []
        starts: list[tuple[ir.Node, Rows]] = []
        for node in reversed(graph):
            needed: list[Rows | None] = [ALL] * len(node.inputs)
            start, rows = selected_rows(node), _rows_of(node, wanted)
            # A Slice lets rows of other axes through, as the parts of a projection of q, k and v must; the others start again.
            passes = rows is not None and (start is None or node.op_type == "Slice")
            found = required_rows(node, rows) if rows is not None and passes else None
            if rows is not None and found is not None:
                needed = found
                narrowed.append((node, needed))
                held[node.outputs[0]] = rows
            elif start is not None:
                needed[0] = start
                starts.append((node, start))
            for value, each in zip(node.inputs, needed, strict=True):
                if value is not None:
                    # A value that lacks the batch has no row per text.
                    wanted.setdefault(value, {})[ALL if each is not None and each.lacks is not None else each] = None
        if not narrowed:
            return ir.passes.PassResult(model, modified=False)
        _rewrite(graph, held, narrowed, starts)
        return ir.passes.PassResult(model, modified=True)


def _rows_of(node: ir.Node, wanted: dict[ir.Value, dict[Rows | None, None]]) -> Rows | None:
    """The rows of its result that the node's readers want, all together; None where that is everything."""
    shape = known_shape(node.outputs[0])
    several = [rows for rows in wanted.get(node.outputs[0], {}) if rows is not None]
    if len(node.outputs) != 1 or shape is None or not several or len(several) < len(wanted[node.outputs[0]]):
        return None
    rows = several[0] if len(several) == 1 else union(several)
    if rows is None or rows.count == shape[rows.axis]:
        _logger.debug("PushSlices: %r is computed whole: its readers want %s", node.outputs[0].name, several)
        return None
    return rows


def _rewrite(
    graph: ir.Graph, held: dict[ir.Value, Rows], narrowed: _Required, starts: Collection[tuple[ir.Node, Rows]]
) -> None:
    build = Builder(graph, "")

    def part(value: ir.Value, rows: Rows) -> ir.Value:
        """The rows of a value that is whole, or has them among others."""
        if value not in held:
            return take(build, value, rows)  # rule 3
        return value if held[value] == rows else take(build, value, within(rows, held[value]))

    # Shapes are narrowed as the graph computes them: what takes rows from a value reads its shape.
    for node, needed in reversed(narrowed):
        before = [known_shape(value) for value in node.inputs]
        for index, (value, rows) in enumerate(zip(node.inputs, needed, strict=True)):
            if value is not None and rows is not None:
                node.replace_input_with(index, part(value, rows))
        output = node.outputs[0]
        after = known_shape(output)
        assert after is not None  # _rows_of
        output.shape = held[output].narrow(after)
        if node.op_type == "Reshape":
            assert before[0] is not None  # required_rows
            target = static_target(known_shape(node.inputs[0]) or (), known_shape(output) or ())
            assert target is not None  # required_rows
            node.replace_input_with(1, build.ints(target))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        graph.insert_before(node, build.take())
    for node, rows in starts:
        value = node.inputs[0]
        if value not in held:
            continue
        assert value is not None
        found, output = part(value, rows), node.outputs[0]
        if len(output.shape or ()) < len(value.shape or ()):
            axes = build.ints([rows.axis])
            found = build.node("Squeeze", [found, axes], shape=output.shape, dtype=output.dtype, hint=f"{output.name}_row")
        graph.insert_before(node, build.take())
        replace_value(output, found)
        graph.remove(node, safe=True)
    # Positions that the run knows may be computed below what is narrowed by them.
    graph.sort()
