"""The graphs on both sides of a cut, made from a saved graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.split.cut import State
from runtime.bundle import ROUTE_INPUTS

__all__ = ["save_branches", "save_trunk"]


def save_trunk(graph: Path, states: Sequence[State], output: Path) -> None:
    """Write the part of a saved graph that computes states; it keeps all inputs.

    Args:
        graph: the graph of all tasks.
        states: the outputs, in order; the graph computes all of them.
        output: a file in the same folder, which reads the same weights.
    """
    model = ir.load(graph)
    found = _values(model.graph)
    model.graph.outputs.clear()
    for state in states:
        value = found[state.value]
        value.name = state.name
        value.type, value.shape = ir.TensorType(state.dtype), _shape(state)
        model.graph.outputs.append(value)
    _save(model, output)


def save_branches(graph: Path, states: Sequence[State], output: Path) -> tuple[str, ...]:
    """Write the part of a saved graph that computes its outputs from states.

    Args:
        graph: the graph of all tasks, the routed graph, or that with slots.
        states: the values that become inputs, after those inputs of the graph that are still read.
        output: a file in the same folder, which reads the same weights.

    Returns:
        The names of the graph's own inputs that are still read, among them those of a routed graph, also if it has one task,
        and the weights of slots.
    """
    model = ir.load(graph)
    given = model.graph
    found = _values(given)
    entered = []
    for state in states:
        value = found[state.value]
        new = ir.Value(name=state.name, type=ir.TensorType(state.dtype), shape=_shape(state))
        for number, result in enumerate(given.outputs):
            if result is value:  # a task that gives the state itself
                given.outputs[number] = _copy(given, new, result)
        ir.convenience.replace_all_uses_with(value, new)
        entered.append(new)
    common.RemoveUnusedNodesPass()(model)
    _measure_others(given, entered)
    common.RemoveUnusedNodesPass()(model)
    kept = [value for value in given.inputs if value.uses() or value.name in ROUTE_INPUTS]
    given.inputs.clear()
    given.inputs.extend([*kept, *entered])
    _save(model, output)
    return tuple(str(value.name) for value in kept)


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    return {str(value.name): value for node in graph for value in node.outputs}


def _copy(graph: ir.Graph, new: ir.Value, result: ir.Value) -> ir.Value:
    node = ir.node("Identity", [new])
    copy = node.outputs[0]
    copy.type, copy.shape = result.type, result.shape
    name, result.name = result.name, f"{result.name}_state"
    copy.name = name
    graph.append(node)
    return copy


def _measure_others(graph: ir.Graph, entered: Sequence[ir.Value]) -> None:
    """Where only the shape of an input is read, read that of another value with the same leading axes, so that it can go."""
    for value in graph.inputs:
        readers = [node for node, _ in value.uses()]
        if not readers or any(node.op_type != "Shape" or node.domain for node in readers) or value.shape is None:
            continue
        own = [str(dim) for dim in value.shape]
        others = [each for each in graph.inputs if each is not value and any(n.op_type != "Shape" for n, _ in each.uses())]
        for other in (*others, *entered):
            if other.shape is not None and [str(dim) for dim in other.shape][: len(own)] == own:
                for node in readers:
                    # The default end is the last axis, of which the other value may have more.
                    if len(other.shape) > len(own) and "end" not in node.attributes:
                        node.attributes["end"] = ir.AttrInt64("end", len(own))
                ir.convenience.replace_all_uses_with(value, other)
                break


def _shape(state: State) -> ir.Shape:
    return ir.Shape([int(axis) if axis.isdecimal() else axis for axis in state.shape])


def _save(model: ir.Model, output: Path) -> None:
    common.RemoveUnusedNodesPass()(model)
    ir.save(model, output)
