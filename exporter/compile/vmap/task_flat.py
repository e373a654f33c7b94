"""Branch values as [tasks or rows, n, features], and the operators with task weights that work on that form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.operators import BINARY, UNARY
from exporter.compile.vmap.layouts import Layout, batch_axis
from exporter.compile.vmap.task_fold import TaskFold

# The rank of [tasks or rows, n, features].
_RANK = 3


class TaskFlat:
    """Maps branch values to their flat form; each rule computes one operator in it and says whether it could.

    The folded form is made from the flat one on demand and the other way round, so a chain of flat operators has no Reshape
    inside.

    Where the layout pads, the tasks' weights may differ in their last axis (label counts): they are padded with zeros, and the
    last columns of what is computed from them mean nothing for the tasks that have fewer.

    Attributes:
        values: branch value of the template -> its flat form.
        widths: a branch value with such columns -> how many each task has.
    """

    def __init__(
        self,
        build: Builder,
        fold: TaskFold,
        layout: Layout,
        weights: Mapping[ir.Value, Sequence[np.ndarray]],
        batch: str,
    ) -> None:
        self.values: dict[ir.Value, ir.Value] = {}
        self.widths: dict[ir.Value, tuple[int, ...]] = {}
        self._trunk: dict[ir.Value, ir.Value] = {}
        self._build = build
        self._fold = fold
        self._layout = layout
        self._weights = weights
        self._batch = batch
        self._stacks: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}

    def folded(self, value: ir.Value) -> ir.Value:
        """The folded form of any value of the template, made from the flat one where that is all there is."""
        if value in self.values and value not in self._fold.branch:
            folded = self._layout.unflatten(self.values[value], value)
            if folded is None:
                folded = self._build.node(
                    "Reshape",
                    [self.values[value], self._fold.folded_dims(value)],
                    shape=self._fold.folded_shape(value),
                    dtype=value.dtype,
                    hint=f"{value.name}_folded",
                )
            self._fold.branch[value] = folded
        return self._fold(value)

    def rule(self, node: ir.Node) -> bool:
        """Computes a node that reads task weights. False: there is no rule for it, and nothing was done."""
        if node.domain != "" or len(node.outputs) != 1:
            return False
        if node.op_type == "MatMul":
            return self._matmul(node)
        if node.op_type == "Gemm":
            return self._gemm(node)
        if node.op_type == "LayerNormalization":
            return self._layer_norm(node)
        return node.op_type in BINARY and self._arithmetic(node)

    def elementwise(self, node: ir.Node) -> bool:
        """Arithmetic among flat values of one shape and scalars. False: the node is something else."""
        if node.op_type not in UNARY | BINARY or node.domain != "":
            return False
        known = {**self._trunk, **self.values}
        flats = [value for value in node.inputs if value in known]
        others = [const_array(value) for value in node.inputs if value not in known]
        if not flats or known_shape(flats[0]) is None:
            return False
        if any(known_shape(value) != known_shape(flats[0]) for value in (*flats, node.outputs[0])):
            return False
        if any(array is None or array.size != 1 or array.ndim > _RANK for array in others):
            return False
        widths = {self.widths.get(value) for value in flats}
        if len(widths) > 1:
            return False
        inputs = [known.get(value, value) for value in node.inputs if value is not None]
        return self._done(node, self._build.clone(node, inputs, [known[flats[0]].shape], "")[0], widths.pop())

    def _matmul(self, node: ir.Node) -> bool:
        x, weight = node.inputs
        stack = self._matrix_stack(weight, (0, 1))
        if x is None or stack is None or not self._can_flatten(x) or x in self.widths:
            return False
        return self._done(node, self._node("MatMul", [self._flat(x), stack], node.outputs[0]), self._ragged(weight, 1))

    def _gemm(self, node: ir.Node) -> bool:
        x, weight, bias = [*node.inputs, None][:3]
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if not plain or node.attributes.get_int("transA", 0) != 0:
            return False
        order = (0, 1) if node.attributes.get_int("transB", 0) == 0 else (1, 0)
        stack, offset = self._matrix_stack(weight, order), self._row_stack(bias)
        if x is None or stack is None or (bias is not None and offset is None) or not self._can_flatten(x) or x in self.widths:
            return False
        widths = self._ragged(weight, order[1])
        if bias is not None and self._ragged(bias, -1) != widths:
            return False
        y = self._node("MatMul", [self._flat(x), stack], node.outputs[0])
        return self._done(node, y if offset is None else self._node("Add", [y, offset], node.outputs[0]), widths)

    def _arithmetic(self, node: ir.Node) -> bool:
        """x with a task weight that broadcasts along the last axis."""
        if len(node.inputs) != 2:  # Max and Min take any number
            return False
        weight = next(value for value in node.inputs if value in self._weights)
        x = next((value for value in node.inputs if value not in self._weights), None)
        stack = self._row_stack(weight)
        if x is None or stack is None or not self._can_flatten(x):
            return False
        if known_shape(x) != known_shape(node.outputs[0]):
            return False  # the weight would widen x
        own, widths = self._ragged(weight, -1), self.widths.get(x)
        if own is not None and own != widths:
            return False
        inputs = [stack if value is weight else self._flat(x) for value in node.inputs]
        return self._done(node, self._node(node.op_type, inputs, node.outputs[0]), widths)

    def _layer_norm(self, node: ir.Node) -> bool:
        """LN(x) with task weights = scale x LN(x) with unit weights + bias."""
        x, scale, bias = [*node.inputs, None][:3]
        scales, biases = self._row_stack(scale), self._row_stack(bias)
        if x is None or scale is None or scales is None or (bias is not None and biases is None) or not self._can_flatten(x):
            return False
        if node.attributes.get_int("axis", -1) not in (-1, len(known_shape(x) or ()) - 1) or x in self.widths:
            return False
        output, flat = node.outputs[0], self._flat(x)
        kept: dict[str, int | float | str | Sequence[int]] = {
            "axis": -1,
            "epsilon": node.attributes.get_float("epsilon", 1e-5),
            "stash_type": node.attributes.get_int("stash_type", 1),
        }
        unit = self._build.constant(np.ones_like(self._weights[scale][0]))
        y = self._build.node("LayerNormalization", [flat, unit], attributes=kept, shape=flat.shape, dtype=output.dtype)
        y = self._node("Mul", [y, scales], output)
        return self._done(node, y if biases is None else self._node("Add", [y, biases], output), None)

    def _done(self, node: ir.Node, flat: ir.Value, widths: tuple[int, ...] | None) -> bool:
        self.values[node.outputs[0]] = flat
        if widths is not None:
            self.widths[node.outputs[0]] = widths
        return True

    def _node(self, op_type: str, inputs: Sequence[ir.Value], like: ir.Value) -> ir.Value:
        """Of rank three, with the last operand's columns: that of task weights, whose label count `like` may not have."""
        leading = next((value.shape[0] for value in inputs if value.shape is not None and len(value.shape) == _RANK), None)
        columns = [value.shape[-1] for value in inputs if value.shape is not None]
        last = columns[-1] if op_type == "MatMul" else max((dim for dim in columns if isinstance(dim, int)), default=None)
        return self._build.node(op_type, inputs, shape=ir.Shape([leading, None, last]), dtype=like.dtype, hint=like.name)

    def _can_flatten(self, value: ir.Value) -> bool:
        shape = known_shape(value)
        if value in self._weights or shape is None:
            return False
        return len(shape) > 1 and isinstance(shape[-1], int) and batch_axis(value, self._batch) == 0

    def _flat(self, value: ir.Value) -> ir.Value:
        # A trunk value stays one: what else reads it is not part of the branch for that.
        forms = self.values if value in self.values or value in self._fold.branch else self._trunk
        if value not in forms:
            forms[value] = self._layout.flatten(self.folded(value), value)
        return forms[value]

    def _matrix_stack(self, weight: ir.Value | None, order: tuple[int, int]) -> ir.Value | None:
        """The tasks' matrices as one [tasks or rows, in, out]; None where there are none or they cannot be stacked."""
        arrays = None if weight is None else self._weights.get(weight)
        if weight is None or arrays is None or any(array.ndim != 2 for array in arrays):
            return None
        return self._stack(weight, order, [array.transpose(order) for array in arrays])

    def _row_stack(self, weight: ir.Value | None) -> ir.Value | None:
        """The tasks' vectors, which vary along the last axis alone, as one [tasks or rows, 1, n]."""
        arrays = None if weight is None else self._weights.get(weight)
        if weight is None or arrays is None or len({array.ndim for array in arrays}) != 1:
            return None
        if any(array.size != (array.shape or (1,))[-1] for array in arrays):
            return None
        return self._stack(weight, (-1,), [array.reshape(1, -1) for array in arrays])

    def _stack(self, weight: ir.Value, order: tuple[int, ...], arrays: Sequence[np.ndarray]) -> ir.Value | None:
        key = (weight, order)
        if key not in self._stacks:
            columns = max(array.shape[1] for array in arrays)
            if any(array.shape != (arrays[0].shape[0], columns) for array in arrays):
                if not self._layout.pads or len({array.shape[0] for array in arrays}) != 1:
                    return None
                arrays = [np.pad(array, ((0, 0), (0, columns - array.shape[1]))) for array in arrays]
            self._stacks[key] = self._layout.stack(arrays, str(weight.name))
        return self._stacks[key]

    def _ragged(self, weight: ir.Value | None, axis: int) -> tuple[int, ...] | None:
        """The tasks' sizes along an axis where they differ."""
        arrays = [] if weight is None else self._weights[weight]
        sizes = tuple((array.shape or (1,))[axis] for array in arrays)
        return sizes if len(set(sizes)) > 1 else None
