"""Compute the members of a stack as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import BINARY, UNARY
from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import second_reader, sole_producer
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["MergeSiblingsPass"]

# What a member's operator reads: the result of an earlier step, one value for all members, or a constant for each member.
_Operand = int | ir.Value | tuple[ir.Value, ...]


@dataclass(frozen=True)
class _Step:
    """One operator that every member has; `node` is the first member's."""

    node: ir.Node
    operands: tuple[_Operand, ...]


class MergeSiblingsPass(NodeRewritePass):
    """The members of an AdapterFusion become one batch [members, rows, size], equal up to rounding.

    1. It starts at a Concat that stacks values along a new first axis, and climbs from all of them in step, to values that all
       of them are made of.
    2. On the way stand products with constant matrices of each member's own, of equal shape, and element-wise operators, whose
       operands are the members', scalars and vectors, or one value for all. Nothing else reads what is in between.
    3. A product of one value for all is one, with the matrices side by side; those after it are batched.

    The number of operators is then the same for any number of members. Siblings as wide as q, k and v gain nothing from
    this: splitting the result takes the time that one product saves.
    """

    op_types = ("Concat",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a stack of members by one batch."""
        members = _stacked(node)
        if members is None:
            return None
        climb = _Climb(members)
        if climb.refusal is not None or climb.source is None:
            return climb.refusal or Refusal("the members are not products of one value")
        return _merge(climb.steps, climb.source, len(members), node.outputs[0], build)


def _stacked(node: ir.Node) -> tuple[ir.Value, ...] | None:  # rule 1
    """The values that a Concat stacks along a new first axis."""
    if node.op_type != "Concat" or node.domain != "" or node.attributes.get_int("axis", 1) != 0 or len(node.inputs) < 2:
        return None
    members = []
    for value in node.inputs:
        lift = sole_producer(value, "Unsqueeze")
        axes = None if lift is None else const_array(lift.inputs[1])
        if lift is None or axes is None or axes.tolist() != [0] or lift.inputs[0] is None:
            return None
        members.append(lift.inputs[0])
    return tuple(members)


class _Climb:
    """The members' operators in step, operands first; `source` is a value that all are products of.

    `refusal` says why the members cannot be computed as one.
    """

    def __init__(self, members: tuple[ir.Value, ...]) -> None:
        self._members = members
        self.steps: list[_Step] = []
        self.source: ir.Value | None = None
        self._numbers: dict[tuple[ir.Value, ...], int] = {}
        found = self._visit(members)
        self.refusal = found if isinstance(found, Refusal) else self._read_elsewhere()
        if self.refusal is None and not isinstance(found, int):
            self.refusal = Refusal("the members are equal or constant")

    def _visit(self, values: tuple[ir.Value, ...]) -> _Operand | Refusal:
        if all(value is values[0] for value in values):
            return values[0]
        if values in self._numbers:
            return self._numbers[values]
        arrays = [array for value in values if (array := const_array(value)) is not None]
        if len(arrays) == len(values):
            return values if len({array.shape for array in arrays}) == 1 else Refusal("weights have other shapes", values[0])
        nodes = [node for value in values if (node := value.producer()) is not None]
        if len(nodes) != len(values) or len({_kind(node) for node in nodes}) != 1:
            kinds = ", ".join(sorted({node.op_type for node in nodes}) or ["inputs"])
            return Refusal(f"the members are not alike ({kinds})", values[0])
        operands: list[_Operand] = []
        for sources in zip(*(node.inputs for node in nodes), strict=True):
            own = tuple(value for value in sources if value is not None)
            operand = self._visit(own) if len(own) == len(values) else Refusal("an operand is missing", values[0])
            if isinstance(operand, Refusal):
                return operand
            operands.append(operand)
        step = _Step(nodes[0], tuple(operands))
        if not self._fits(step):
            return Refusal(f"{step.node.op_type} cannot be computed for all members at once", values[0])
        self.steps.append(step)
        self._numbers[values] = len(self.steps) - 1
        return self._numbers[values]

    def _fits(self, step: _Step) -> bool:  # rule 2
        if step.node.op_type != "MatMul":
            operators = UNARY if len(step.operands) == 1 else BINARY
            shape = known_shape(step.node.outputs[0])
            return step.node.op_type in operators and all(_spreads(operand, shape) for operand in step.operands)
        left, right = step.operands
        if not isinstance(right, tuple) or len(known_shape(right[0]) or ()) != 2:
            return False
        if isinstance(left, ir.Value):  # every product of one value has the same rows
            self.source = self.source or left
            shape, first = known_shape(left), known_shape(self.source)
            return shape is not None and first is not None and shape[:-1] == first[:-1]
        return isinstance(left, int)

    def _read_elsewhere(self) -> Refusal | None:
        """Refuse if other operators read a value between the first operators and the stack."""
        nodes = {value.producer() for values in self._numbers for value in values}
        for value in self._members:
            if readers := second_reader(value):
                return Refusal(f"a member {readers}", value)
        for value in (value for values in self._numbers if values != self._members for value in values):
            if value.is_graph_output() or not {node for node, _ in value.uses()} <= nodes:
                return Refusal("a value inside the members is read elsewhere", value)
        return None


def _kind(node: ir.Node) -> tuple[object, ...]:
    attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
    return node.domain, node.op_type, len(node.inputs), len(node.outputs), *attributes


def _spreads(operand: _Operand, shape: tuple[int | ir.SymbolicDim, ...] | None) -> bool:
    """Whether the operand of an element-wise operator means the same to [members, rows, size] as to a member's [*, size]."""
    if isinstance(operand, int):
        return True
    few = const_array(operand[0] if isinstance(operand, tuple) else operand)
    if few is not None:
        return few.ndim < 2
    return isinstance(operand, ir.Value) and shape is not None and known_shape(operand) == shape


def _merge(steps: Sequence[_Step], x: ir.Value, count: int, output: ir.Value, build: Builder) -> ir.Value:
    """[members, *axes, size] in place of `output`."""
    axes = (known_shape(x) or ())[:-1]
    known = [dim for dim in axes if isinstance(dim, int)]
    rows = int(np.prod(known)) if len(known) == len(axes) else ir.SymbolicDim(None)
    results: list[ir.Value] = []
    for step in steps:
        results.append(_computed(step, results, count, rows, build))
    assert results[-1].shape is not None  # made here
    size = int(str(results[-1].shape[-1]))
    if len(axes) - len(known) < 2:
        target = build.ints([count, *(dim if isinstance(dim, int) else -1 for dim in axes), size])
    else:
        kept, int64 = {"start": 0, "end": len(axes)}, ir.DataType.INT64
        lengths = build.node("Shape", [x], attributes=kept, shape=ir.Shape([len(axes)]), dtype=int64)
        parts = [build.ints([count]), lengths, build.ints([size])]
        target = build.node("Concat", parts, attributes={"axis": 0}, shape=ir.Shape([len(axes) + 2]), dtype=int64)
    return build.node("Reshape", [results[-1], target], shape=output.shape, dtype=output.dtype)


def _computed(step: _Step, results: Sequence[ir.Value], count: int, rows: int | ir.SymbolicDim, build: Builder) -> ir.Value:
    """The step for all members, [members, rows, size]."""
    name, dtype = str(step.node.outputs[0].name), step.node.outputs[0].dtype
    left, *others = step.operands
    size = (known_shape(step.node.outputs[0]) or (0,))[-1]
    if step.node.op_type == "MatMul":
        (matrices,) = others
        assert isinstance(matrices, tuple)  # _Climb
        size = _arrays(matrices)[0].shape[1]
        if isinstance(left, ir.Value):  # rule 3
            wide = build.initializer(np.concatenate(_arrays(matrices), axis=1), f"{matrices[0].name}_siblings")
            shape = ir.Shape([*(known_shape(left) or ())[:-1], count * size])
            product = build.node("MatMul", [left, wide], shape=shape, dtype=dtype, hint=f"{name}_wide")
            target = build.ints([-1, count, size])
            split = build.node("Reshape", [product, target], shape=ir.Shape([rows, count, size]), dtype=dtype)
            turn, turned = {"perm": [1, 0, 2]}, ir.Shape([count, rows, size])
            return build.node("Transpose", [split], attributes=turn, shape=turned, dtype=dtype, hint=f"{name}_siblings")
    inputs = [_operand(operand, step, results, build) for operand in step.operands]
    return build.clone(step.node, inputs, [ir.Shape([count, rows, size])], "_siblings")[0]


def _operand(operand: _Operand, step: _Step, results: Sequence[ir.Value], build: Builder) -> ir.Value:
    if isinstance(operand, int):
        return results[operand]
    if isinstance(operand, tuple):
        stack = np.stack(_arrays(operand))
        flat = stack if step.node.op_type == "MatMul" else stack.reshape(len(operand), 1, -1)
        return build.initializer(flat, f"{operand[0].name}_siblings")
    if const_array(operand) is not None:
        return operand
    size = (known_shape(operand) or (0,))[-1]
    target = build.ints([1, -1, int(str(size))])
    return build.node("Reshape", [operand, target], shape=ir.Shape([1, None, size]), dtype=operand.dtype)


def _arrays(values: Sequence[ir.Value]) -> list[np.ndarray]:
    return [array for value in values if (array := const_array(value)) is not None]
