"""Computes only the rows that somebody reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._build import Builder, const_array, const_scalar, known_shape, refuse_subgraphs
from ._operators import BINARY, UNARY

__all__ = ["PushSlicesPass"]

_ELEMENTWISE = UNARY | BINARY | {"Where"}


@dataclass(frozen=True)
class _Row:
    """One position of one axis; `index` may count from the end."""

    axis: int
    index: int


_ALL = None  # everything is read


class PushSlicesPass(ir.passes.InPlacePass):
    """A Gather of one position moves up through the operators that treat its axis independently; equal to rounding.

    A head that reads the first token alone makes the last layer compute that token alone: q, attention output, feed-forward
    and adapters. k and v are read by every row and stay whole.

    1. Backwards, each value learns which row its readers want: one and the same, or everything.
    2. An operator whose result is wanted as one row asks its inputs for that row, where it can.
    3. Where a wanted row meets a value that others need whole, a Slice takes the row.
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        wanted: dict[ir.Value, set[_Row | None]] = {value: {_ALL} for value in graph.outputs}
        narrowed: list[tuple[ir.Node, _Row, list[_Row | None]]] = []
        gathers: list[tuple[ir.Node, _Row]] = []
        for node in reversed(graph):
            rows: list[_Row | None] = [_ALL] * len(node.inputs)
            start = _start(node)
            row = _only(node, wanted)
            if start is not None:
                rows[0] = start
                gathers.append((node, start))
            elif row is not None and (asked := _asks(node, row)) is not None:
                rows = asked
                narrowed.append((node, row, rows))
            for value, asked_row in zip(node.inputs, rows, strict=True):
                if value is not None:
                    wanted.setdefault(value, set()).add(asked_row)
        if not narrowed:
            return ir.passes.PassResult(model, modified=False)
        self._rewrite(graph, narrowed, gathers)
        return ir.passes.PassResult(model, modified=True)

    def _rewrite(
        self, graph: ir.Graph, narrowed: list[tuple[ir.Node, _Row, list[_Row | None]]], gathers: list[tuple[ir.Node, _Row]]
    ) -> None:
        build = Builder(graph, "")
        small = {node.outputs[0] for node, _, _ in narrowed}
        for node, row, rows in narrowed:
            for index, (value, asked) in enumerate(zip(node.inputs, rows, strict=True)):
                if value is not None and asked is not None and value not in small:  # rule 3
                    node.replace_input_with(index, _slice(build, value, asked))
            graph.insert_before(node, build.take())
            output = node.outputs[0]
            output.shape = _narrow(output, row.axis)
        for node, _ in gathers:
            if node.inputs[0] in small:
                # The axis has one position left; the index keeps its rank, which decides the output's.
                position = const_array(node.inputs[1])
                assert position is not None
                node.replace_input_with(1, build.constant(np.zeros_like(position)))


def _narrow(value: ir.Value, axis: int) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape([1 if i == axis else dim for i, dim in enumerate(value.shape)])


def _slice(build: Builder, value: ir.Value, row: _Row) -> ir.Value:
    end = row.index + 1 if row.index != -1 else np.iinfo(np.int64).max
    inputs = [value, build.ints([row.index]), build.ints([end]), build.ints([row.axis])]
    return build.node("Slice", inputs, shape=_narrow(value, row.axis), dtype=value.dtype, hint=f"{value.name}_row")


def _start(node: ir.Node) -> _Row | None:
    """The row that a Gather of one position reads."""
    if node.op_type != "Gather" or node.domain != "" or const_array(node.inputs[0]) is not None:
        return None
    index, shape = const_scalar(node.inputs[1]), known_shape(node.inputs[0])
    if index is None or shape is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    # Along the batch there is nothing to save: it is the caller's.
    return _Row(axis, int(index)) if axis > 0 and shape[axis] != 1 else None


def _only(node: ir.Node, wanted: dict[ir.Value, set[_Row | None]]) -> _Row | None:
    """The one row that all readers of the node want."""
    if len(node.outputs) != 1 or known_shape(node.outputs[0]) is None:
        return None
    rows = wanted.get(node.outputs[0], set())
    return next(iter(rows)) if len(rows) == 1 else None


def _asks(node: ir.Node, row: _Row) -> list[_Row | None] | None:
    """What the operator needs of each input for that row of its output; None where it needs the whole output's inputs."""
    shapes = [known_shape(value) for value in node.inputs]
    rank = len(known_shape(node.outputs[0]) or ())
    first, rest = shapes[0] if shapes else None, [_ALL] * (len(shapes) - 1)
    if first is None or node.domain != "":
        return None
    if node.op_type in _ELEMENTWISE:
        return _asks_elementwise(shapes, rank, row)
    if node.op_type == "LayerNormalization" and node.attributes.get_int("axis", -1) in (-1, rank - 1) and row.axis < rank - 1:
        return [row, *rest]
    if node.op_type == "Softmax" and node.attributes.get_int("axis", -1) % rank != row.axis:
        return [row]
    if node.op_type == "MatMul" and len(first) >= 2 and len(shapes[1] or ()) >= 2 and row.axis < rank - 1:
        # A row of the left matrix, or one of the matrices that are multiplied pair by pair.
        return [_Row(len(first) - 2, row.index), _ALL] if row.axis == rank - 2 else _asks_elementwise(shapes, rank, row)
    if node.op_type == "Concat" and node.attributes.get_int("axis", 0) % rank != row.axis:
        return [row for _ in shapes]
    if node.op_type in ("Squeeze", "Unsqueeze") and (axis := _unsqueezed(node, rank, row.axis)) is not None:
        return [_Row(axis, row.index), *rest]
    if node.op_type == "Transpose":
        return [_Row(node.attributes.get_ints("perm", list(reversed(range(rank))))[row.axis], row.index)]
    if node.op_type == "Reshape" and node.attributes.get_int("allowzero", 0) == 0:
        target = const_array(node.inputs[1])
        # Zeros copy an axis: up to the row's own, input and output are alike.
        if target is not None and row.axis < len(first) and bool((target[: row.axis + 1] == 0).all()):
            return [row, _ALL]
    return None


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


def _asks_elementwise(shapes: list[tuple[int | ir.SymbolicDim, ...] | None], rank: int, row: _Row) -> list[_Row | None] | None:
    asked: list[_Row | None] = []
    for shape in shapes:
        if shape is None:
            return None
        axis = row.axis - (rank - len(shape))
        asked.append(_ALL if axis < 0 or shape[axis] == 1 else _Row(axis, row.index))
    return asked
