"""Operators on values that are looked up for each row, such as a bias for each distance of two tokens: the rows come first."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import ELEMENTWISE
from exporter.compile.rewrite.builder import const_array, known_shape
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Form, PerRow

__all__ = ["can_lead", "lead", "leading_rows"]


def lead(node: ir.Node, env: Env) -> list[Form] | None:
    """Compute an operator that does not read the batch, with the axis of rows before all others.

    Element-wise operators keep their axes, which are counted from the end; Transpose, Squeeze and Unsqueeze count one more.

    Args:
        node: an operator of the template.
        env: the environment.
    """
    output, values = node.outputs[0], [value for value in node.inputs if value is not None]
    after, moved = known_shape(output), _moved_axes(node)
    own = [value for value in values if env.held(value, PerRow) is not None]
    others = [value for value in values if value not in own]
    is_elementwise = node.op_type in ELEMENTWISE
    if not own or after is None or node.domain != "" or not (is_elementwise or (moved is not None and own == values[:1])):
        return None
    if not all(map(env.batch.is_fixed, after)) or any(value in env or env.batch.axis(value) is not None for value in others):
        return None
    ranks = {value: 1 + len((after if is_elementwise else known_shape(value)) or ()) for value in own}
    if not all(can_lead(value, rank, env) for value, rank in ranks.items()):
        return None
    given = {value: leading_rows(value, rank, env) for value, rank in ranks.items()}
    first = given[own[0]]
    assert first.shape is not None  # [rows, ...]
    shape = ir.Shape([first.shape[0], *after])
    if moved is None:
        inputs = [None if value is None else given.get(value, value) for value in node.inputs]
        return [PerRow(env.build.clone(node, inputs, [shape], "_rows")[0])]
    if node.op_type == "Transpose":
        made = env.build.node("Transpose", [first], attributes={"perm": [0, *moved]}, shape=shape, dtype=output.dtype)
    else:
        made = env.build.node(node.op_type, [first, env.build.ints(moved)], shape=shape, dtype=output.dtype)
    return [PerRow(made)]


def _moved_axes(node: ir.Node) -> list[int] | None:
    """Return the axes that a Transpose, Squeeze or Unsqueeze names, with one more axis before them; None for others."""
    rank = len(node.outputs[0].shape or ())
    if node.op_type == "Transpose":
        return [axis + 1 for axis in node.attributes.get_ints("perm", list(reversed(range(rank))))]
    axes = const_array(node.inputs[1]) if node.op_type in ("Squeeze", "Unsqueeze") and len(node.inputs) > 1 else None
    if axes is None:
        return None
    counted = rank if node.op_type == "Unsqueeze" else rank + axes.size
    return [int(axis) % counted + 1 for axis in axes.reshape(-1)]


def can_lead(value: ir.Value, rank: int, env: Env) -> bool:
    """Return whether `leading_rows` is possible."""
    own, found = known_shape(_held(value, env)), known_shape(value)
    return own is not None and found is not None and all(dim == 1 for dim in own[1 : len(own) - rank + 1])


def leading_rows(value: ir.Value, rank: int, env: Env) -> ir.Value:
    """Return a value that is looked up per row as [rows, ...] of that rank; its other axes are the last ones.

    Args:
        value: a value of the template for which `can_lead` is true.
        rank: the rank.
        env: the environment.
    """
    held = _held(value, env)
    dims = known_shape(held)
    assert dims is not None  # can_lead
    missing = rank - len(dims)
    if missing == 0:
        return held
    axes = env.build.ints(range(1, abs(missing) + 1))
    shape = ir.Shape([dims[0], *(1 for _ in range(missing)), *dims[max(1, 1 - missing) :]])
    return env.build.node("Unsqueeze" if missing > 0 else "Squeeze", [held, axes], shape=shape, dtype=held.dtype)


def _held(value: ir.Value, env: Env) -> ir.Value:
    held = env.held(value, PerRow)
    assert held is not None  # the caller's condition
    return held.value
