"""The table of rules for operators with task weights, which compute all tasks at once on stacked values.

A rule returns the result as [tasks or rows, n, features], or None if it does not apply. If the layout pads, the tasks' weights
may differ in their last axis (label counts): they are padded with zeros, and the further columns of a result have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import BINARY, UNARY
from exporter.compile.rewrite.builder import const_array, known_shape
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Stacked

__all__ = ["WEIGHT_RULES", "Stacks", "WeightRule", "elementwise"]

# The rank of [tasks or rows, n, features].
_RANK = 3


class Stacks:
    """Makes stacks of the tasks' weights, each once."""

    def __init__(self, env: Env) -> None:
        """Start without stacks."""
        self._env = env
        self._made: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}

    def matrices(self, weight: ir.Value | None, order: tuple[int, int]) -> ir.Value | None:
        """Return the tasks' matrices as [tasks or rows, in, out], or one matrix of the trunk as [in, out].

        None if it is neither, or if the matrices cannot be stacked.
        """
        arrays, shared = self._env.arrays(weight), const_array(weight)
        if weight is not None and arrays is None and shared is not None and shared.ndim == 2:
            return weight if order == (0, 1) else self._transposed(weight)
        if weight is None or arrays is None or any(array.ndim != 2 for array in arrays):
            return None
        return self._stack(weight, order, [array.transpose(order) for array in arrays])

    def vectors(self, weight: ir.Value | None) -> ir.Value | None:
        """Return the tasks' vectors as [tasks or rows, 1, n], or one vector of the trunk as [n].

        None if it is neither, if the vectors cannot be stacked, or if they vary along another axis than the last.
        """
        arrays, shared = self._env.arrays(weight), const_array(weight)
        if arrays is None and shared is not None and shared.ndim < 2:
            return weight
        if weight is None or arrays is None or len({array.ndim for array in arrays}) != 1:
            return None
        if any(array.size != (array.shape or (1,))[-1] for array in arrays):
            return None
        return self._stack(weight, (-1,), [array.reshape(1, -1) for array in arrays])

    def _stack(self, weight: ir.Value, order: tuple[int, ...], arrays: Sequence[np.ndarray]) -> ir.Value | None:
        key = (weight, order)
        if key not in self._made:
            columns = max(array.shape[1] for array in arrays)
            if any(array.shape != (arrays[0].shape[0], columns) for array in arrays):
                if not self._env.layout.pads or len({array.shape[0] for array in arrays}) != 1:
                    return None
                arrays = [np.pad(array, ((0, 0), (0, columns - array.shape[1]))) for array in arrays]
            self._made[key] = self._env.layout.stack(arrays, str(weight.name))
        return self._made[key]

    def _transposed(self, weight: ir.Value) -> ir.Value:
        def make() -> ir.Value:
            shape = ir.Shape(list(weight.shape or ())[::-1])
            turn, hint = {"perm": [1, 0]}, f"{weight.name}_transposed"
            return self._env.build.node("Transpose", [weight], attributes=turn, shape=shape, dtype=weight.dtype, hint=hint)

        return self._env.build.once((weight, "transposed"), make)

    def widths(self, weight: ir.Value | None, axis: int) -> tuple[int, ...] | None:
        """Return the tasks' sizes along an axis if they differ; None otherwise."""
        sizes = tuple((array.shape or (1,))[axis] for array in self._env.arrays(weight) or ())
        return sizes if len(set(sizes)) > 1 else None


WeightRule = Callable[[ir.Node, Env, Stacks], Stacked | None]


def _matmul(node: ir.Node, env: Env, stacks: Stacks) -> Stacked | None:
    x, weight = node.inputs
    if x is None or not env.can_stack(x) or env.widths(x) is not None:
        return None
    matrices = stacks.matrices(weight, (0, 1))
    if matrices is None:
        return None
    return Stacked(_node(env, "MatMul", [env.stacked(x), matrices], node.outputs[0]), stacks.widths(weight, 1))


def _gemm(node: ir.Node, env: Env, stacks: Stacks) -> Stacked | None:
    x, weight, bias = [*node.inputs, None][:3]
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if not plain or node.attributes.get_int("transA", 0) != 0 or x is None or not env.can_stack(x) or env.widths(x) is not None:
        return None
    order = (0, 1) if node.attributes.get_int("transB", 0) == 0 else (1, 0)
    widths = stacks.widths(weight, order[1])
    if bias is not None and stacks.widths(bias, -1) != widths:
        return None
    matrices, offsets = stacks.matrices(weight, order), stacks.vectors(bias)
    if matrices is None or (bias is not None and offsets is None):
        return None
    y = _node(env, "MatMul", [env.stacked(x), matrices], node.outputs[0])
    return Stacked(y if offsets is None else _node(env, "Add", [y, offsets], node.outputs[0]), widths)


def _layer_norm(node: ir.Node, env: Env, stacks: Stacks) -> Stacked | None:
    """LN(x) with task weights = scale x LN(x) with unit weights + bias; a scale of the trunk stays in LN."""
    x, scale, bias = [*node.inputs, None][:3]
    if x is None or scale is None or not env.can_stack(x) or env.widths(x) is not None:
        return None
    if node.attributes.get_int("axis", -1) not in (-1, len(known_shape(x) or ()) - 1):
        return None
    scales, offsets = stacks.vectors(scale), stacks.vectors(bias)
    if scales is None or (bias is not None and offsets is None):
        return None
    output, flat = node.outputs[0], env.stacked(x)
    kept: dict[str, int | float | str | Sequence[int]] = {
        "axis": -1,
        "epsilon": node.attributes.get_float("epsilon", 1e-5),
        "stash_type": node.attributes.get_int("stash_type", 1),
    }
    arrays = env.arrays(scale)
    unit = scale if arrays is None else env.build.constant(np.ones_like(arrays[0]))
    y = env.build.node("LayerNormalization", [flat, unit], attributes=kept, shape=flat.shape, dtype=output.dtype)
    y = y if arrays is None else _node(env, "Mul", [y, scales], output)
    return Stacked(y if offsets is None else _node(env, "Add", [y, offsets], output))


def _arithmetic(node: ir.Node, env: Env, stacks: Stacks) -> Stacked | None:
    """Combine x with a task weight that broadcasts along the last axis."""
    if len(node.inputs) != 2:  # Max and Min take any number
        return None
    weight = next(value for value in node.inputs if env.arrays(value) is not None)
    x = next((value for value in node.inputs if env.arrays(value) is None), None)
    if x is None or not env.can_stack(x) or known_shape(x) != known_shape(node.outputs[0]):  # the weight would widen x
        return None
    own, widths = stacks.widths(weight, -1), env.widths(x)
    vectors = stacks.vectors(weight) if own is None or own == widths else None
    if vectors is None:
        return None
    inputs = [vectors if value is weight else env.stacked(x) for value in node.inputs]
    return Stacked(_node(env, node.op_type, inputs, node.outputs[0], list(node.attributes.values())), widths)


WEIGHT_RULES: Mapping[str, WeightRule] = {
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    **dict.fromkeys(sorted(BINARY), _arithmetic),
}


def elementwise(node: ir.Node, env: Env) -> Stacked | None:
    """Compute an operator without task weights directly on stacked values of one shape and scalars."""
    if node.op_type not in UNARY | BINARY or node.domain != "":
        return None
    stacks = [stack for value in node.inputs if (stack := env.held(value, Stacked)) is not None]
    shapes = [
        known_shape(value) for value in (*node.inputs, *node.outputs) if value in node.outputs or env.held(value, Stacked)
    ]
    others = [const_array(value) for value in node.inputs if env.held(value, Stacked) is None]
    if not stacks or shapes[0] is None or any(shape != shapes[0] for shape in shapes):
        return None
    if any(array is None or array.size != 1 or array.ndim > _RANK for array in others):
        return None
    widths = {stack.widths for stack in stacks}
    if len(widths) > 1:
        return None
    inputs = [value if (stack := env.held(value, Stacked)) is None else stack.value for value in node.inputs]
    return Stacked(env.build.clone(node, inputs, [stacks[0].value.shape], "")[0], widths.pop())


def _node(env: Env, op_type: str, inputs: Sequence[ir.Value], like: ir.Value, attributes: Sequence[ir.Attr] = ()) -> ir.Value:
    """Make a node of rank three. Its columns are those of the operands: stacked weights may have more labels than `like`."""
    leading = next((value.shape[0] for value in inputs if value.shape is not None and len(value.shape) == _RANK), None)
    columns = [value.shape[-1] for value in inputs if value.shape]
    last = columns[-1] if op_type == "MatMul" else max((dim for dim in columns if isinstance(dim, int)), default=None)
    shape = ir.Shape([leading, None, last])
    return env.build.node(op_type, inputs, attributes=attributes, shape=shape, dtype=like.dtype, hint=like.name)
