"""Computes the members of a stack as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._attention import made_by
from ._build import Builder, const_array, known_shape, refuse_subgraphs, take_over
from ._operators import BINARY, UNARY

__all__ = ["MergeSiblingsPass"]


@dataclass(frozen=True)
class _Step:
    """One operator that every member has.

    Attributes:
        node: the first member's.
        position: which of its two operands comes from the member itself; 0 for an operator of one.
        operands: the other operand of each member: constants, or one value for all; empty for an operator of one.
    """

    node: ir.Node
    position: int
    operands: tuple[ir.Value, ...]


class MergeSiblingsPass(ir.passes.InPlacePass):
    """The members of an AdapterFusion become one batch [members, rows, size], equal to rounding.

    1. It starts at a Concat that stacks values along a new first axis, and climbs from all of them in step, to one value x
       [..., K] that all of them are made of.
    2. On the way stand products with constant matrices of equal shape, elementwise operators of one operand, and of two
       where the other is a constant scalar or vector of each member's own, or one value for all. Nothing else reads what is
       in between.
    3. The first product is one, with the matrices side by side; later ones are batched.

    The number of operators is then the same for any number of members. Siblings as wide as q, k and v gain nothing from
    this: what one product saves, cutting its result to pieces takes.
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            members = _stacked(node)
            found = None if members is None else _climb(members)
            if found is None or members is None:
                continue
            merged = _merge(*found, len(members), node.outputs[0], build)
            model.graph.insert_before(node, build.take())
            take_over(node.outputs[0], merged)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _stacked(node: ir.Node) -> list[ir.Value] | None:  # rule 1
    """The values that a Concat stacks along a new first axis."""
    if node.op_type != "Concat" or node.domain != "" or node.attributes.get_int("axis", 1) != 0 or len(node.inputs) < 2:
        return None
    members = []
    for value in node.inputs:
        lift = made_by(value, "Unsqueeze")
        axes = None if lift is None else const_array(lift.inputs[1])
        if lift is None or axes is None or axes.tolist() != [0] or lift.inputs[0] is None:
            return None
        members.append(lift.inputs[0])
    return members


def _climb(members: Sequence[ir.Value]) -> tuple[ir.Value, list[_Step]] | None:
    """(x, the steps from x to the members)."""
    steps: list[_Step] = []
    values = list(members)
    while any(value is not values[0] for value in values):
        nodes = [node for value in values if (node := value.producer()) is not None and made_by(value, node.op_type) is node]
        if len(nodes) != len(values) or len({(node.op_type, repr(sorted(node.attributes.items()))) for node in nodes}) != 1:
            return None
        step = _step(nodes)
        if step is None:
            return None
        steps.insert(0, step)
        values = [value for node in nodes if (value := node.inputs[step.position]) is not None]
    first = steps[0] if steps else None
    if first is None or first.node.op_type != "MatMul" or not isinstance((known_shape(values[0]) or (None,))[-1], int):
        return None
    return values[0], steps


def _step(nodes: Sequence[ir.Node]) -> _Step | None:  # rule 2
    """What the members' operators have in common."""
    if nodes[0].op_type in UNARY:
        return _Step(nodes[0], 0, ())
    matrix = nodes[0].op_type == "MatMul"
    if not matrix and nodes[0].op_type not in BINARY:
        return None
    for position in (0, 1):
        operands = [value for node in nodes if (value := node.inputs[1 - position]) is not None]
        arrays = [array for value in operands if (array := const_array(value)) is not None]
        if len(arrays) == len(nodes):
            fits = arrays[0].ndim == 2 and position == 0 if matrix else arrays[0].ndim < 2
            if fits and len({array.shape for array in arrays}) == 1:
                return _Step(nodes[0], position, tuple(operands))
        elif not matrix and not arrays and all(value is operands[0] for value in operands):
            shape = known_shape(operands[0])
            if shape is not None and shape == known_shape(nodes[0].outputs[0]):
                return _Step(nodes[0], position, (operands[0],))
    return None


def _merge(x: ir.Value, steps: Sequence[_Step], count: int, output: ir.Value, build: Builder) -> ir.Value:
    """[members, *axes of x, size] in place of `output`."""
    shape = known_shape(x)
    assert shape is not None  # _climb
    rows = [int(dim) for dim in shape[:-1] if isinstance(dim, int)]
    total = ir.SymbolicDim(None) if len(rows) < len(shape) - 1 else int(np.prod(rows))
    result = _first_product(x, steps[0], count, total, build)
    for step in steps[1:]:
        result = _next(result, step, build)
    assert result.shape is not None  # made here
    size = result.shape[-1]
    if len(shape) - 1 - len(rows) < 2:
        sizes = build.ints([count, *(dim if isinstance(dim, int) else -1 for dim in shape[:-1]), int(str(size))])
    else:
        kept = {"start": 0, "end": len(shape) - 1}
        axes = build.node("Shape", [x], attributes=kept, shape=ir.Shape([len(shape) - 1]), dtype=ir.DataType.INT64)
        parts = [build.ints([count]), axes, build.ints([int(str(size))])]
        sizes = build.node("Concat", parts, attributes={"axis": 0}, shape=ir.Shape([len(shape) + 1]), dtype=ir.DataType.INT64)
    return build.node("Reshape", [result, sizes], shape=output.shape, dtype=output.dtype)


def _first_product(x: ir.Value, step: _Step, count: int, rows: int | ir.SymbolicDim, build: Builder) -> ir.Value:  # rule 3
    """[members, rows, size]; `rows`: all of x's."""
    matrices = [array for value in step.operands if (array := const_array(value)) is not None]
    size = matrices[0].shape[1]
    wide = build.initializer(np.concatenate(matrices, axis=1), f"{step.operands[0].name}_siblings")
    shape, name = known_shape(x) or (), str(step.node.outputs[0].name)
    product = build.node("MatMul", [x, wide], shape=ir.Shape([*shape[:-1], count * size]), dtype=x.dtype, hint=f"{name}_wide")
    split = build.node("Reshape", [product, build.ints([-1, count, size])], shape=ir.Shape([rows, count, size]), dtype=x.dtype)
    turn = {"perm": [1, 0, 2]}
    return build.node("Transpose", [split], attributes=turn, shape=ir.Shape([count, rows, size]), dtype=x.dtype, hint=name)


def _next(value: ir.Value, step: _Step, build: Builder) -> ir.Value:
    """The step on all members, [members, rows, size]."""
    assert value.shape is not None  # made here
    count, rows, size = value.shape
    inputs = [value]
    if step.operands:
        operand = _operand(step, build)
        inputs.insert(1 - step.position, operand)
        if step.node.op_type == "MatMul" and operand.shape is not None:
            size = operand.shape[-1]
    (result,) = build.clone(step.node, inputs, [ir.Shape([count, rows, size])], "_siblings")
    return result


def _operand(step: _Step, build: Builder) -> ir.Value:
    arrays = [array for value in step.operands if (array := const_array(value)) is not None]
    first = step.operands[0]
    if not arrays:
        # One value for all members, [*axes of x, size].
        size = (known_shape(first) or (0,))[-1]
        flat = build.ints([1, -1, int(str(size))])
        return build.node("Reshape", [first, flat], shape=ir.Shape([1, None, size]), dtype=first.dtype)
    stack = np.stack(arrays)
    if step.node.op_type != "MatMul":
        stack = stack.reshape(len(arrays), 1, -1)
    return build.initializer(stack, f"{first.name}_siblings")
