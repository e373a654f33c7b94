"""Operators that carry the padded label axis of a routed graph along, such as the selection of a decoder's last token."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import carried_from
from exporter.compile.vmap.batch import Use
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Padded, Stacked

__all__ = ["carry", "padded"]


def carry(node: ir.Node, env: Env) -> list[Padded] | None:
    """Compute an operator one of whose inputs has label counts that differ between tasks, padded along one axis.

    The operator must read position i of that axis for position i of the result only, and take no lengths. The further columns
    then have no meaning in the result either, and nothing else depends on them.

    Args:
        node: an operator of the template.
        env: the environment.
    """
    wide = [value for value in node.inputs if value is not None and env.widths(value) is not None]
    if len(wide) != 1 or len(node.outputs) != 1:
        return None
    value, output = wide[0], node.outputs[0]
    own = padded(value, env)
    axis = None if own is None or output.shape is None else _axis_of_result(node, value, own.axis, len(output.shape))
    uses = None if axis is None else env.uses_of(node)
    if own is None or axis is None or uses is None or any(env.arrays(each) is not None for each in node.inputs):
        return None
    read = list(zip(node.inputs, uses, strict=True))
    if any(use is not Use.FOLDED for each, use in read if each is value):
        return None
    if not all(env.can_fold(each) for each, use in read if each is not None and each is not value and use is Use.FOLDED):
        return None
    inputs = env.inputs(node, uses, {value: own.value})
    shape = list(env.folded_shape(output) or ())
    shape[axis] = max(own.widths)
    (found,) = env.build.clone(node, inputs, [ir.Shape(shape)], "")
    return [Padded(found, axis, own.widths)]


def padded(value: ir.Value, env: Env) -> Padded | None:
    """Return a value with padded columns in the template's rank; None if it cannot be made."""
    if (held := env.held(value, Padded)) is not None:
        return held
    stack, shape = env.held(value, Stacked), value.shape
    folded = None if stack is None or shape is None else env.layout.unflatten(stack.value, value)
    if stack is None or stack.widths is None or shape is None or folded is None:
        return None
    found = Padded(folded, len(shape) - 1, stack.widths)
    env.keep(value, found)
    return found


def _axis_of_result(node: ir.Node, value: ir.Value, axis: int, rank: int) -> int | None:
    return next((own for own in range(rank) if carried_from(node, own) == (value, axis)), None)
