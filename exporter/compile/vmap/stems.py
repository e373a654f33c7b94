"""Finds what the branches of several groups have in common: equal adapters under different heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, replace_value
from exporter.traced_group import TracedGroup

__all__ = ["STEM", "Divided", "divide_groups"]

# The input of a member that the stem computes.
STEM = "stem"
# Fewer operators are not worth a stem, whose rows each member selects.
_FEWEST = 8


@dataclass(frozen=True)
class Divided:
    """Groups whose branches begin with the same operators, on weights of the same shapes, divided where they part.

    Attributes:
        stem: this beginning as a group with the tasks of all members, in their order; its output is the value from which the
            branches part. None for a single group.
        members: number of a group -> what is left of it. With a stem, it has the output of the stem as a further input, `STEM`,
            with the shape that it has for one task.
    """

    stem: TracedGroup | None
    members: Mapping[int, TracedGroup]


def divide_groups(groups: Sequence[TracedGroup], batch: str) -> list[Divided]:
    """Divide branches at the last value through which everything passes that they have in common.

    A group joins the first groups with a stem from which it parts at the end of that stem. Operators that no task weight
    reaches stay with each group: equal trunks are merged later.

    Args:
        groups: clean groups; those that get a stem are changed in place.
        batch: the name of the batch axis.
    """
    found: list[dict[int, ir.Value | None]] = []
    equal: dict[int, Mapping[ir.Value, ir.Value]] = {}
    for number, group in enumerate(groups):
        for cuts in found:
            first = next(iter(cuts))
            pairs = _equal_values(groups[first], group)
            if (cut := _last_cut(groups[first], group, pairs, batch, cuts[first])) is not None:
                cuts[first], cuts[number], equal[number] = cut, pairs[cut], pairs
                break
        else:
            found.append({number: None})
    return [_divide(groups, cuts, equal) for cuts in found]


def _last_cut(
    one: TracedGroup, other: TracedGroup, pairs: Mapping[ir.Value, ir.Value], batch: str, only: ir.Value | None
) -> ir.Value | None:
    """Return the last value of `one` at which both branches can be divided; None if it comes too early.

    Args:
        one: a group.
        other: another group.
        pairs: values of `one` -> equal values of `other`.
        batch: the name of the batch axis.
        only: the only value that is considered; None for any.
    """
    branches = _branch(one), _branch(other)
    for node in reversed(list(one.model.graph)):
        value = node.outputs[0]
        if value not in branches[0] or value not in pairs or (only is not None and value is not only):
            continue
        shape = known_shape(value)
        if not shape or str(shape[0]) != batch or known_shape(pairs[value]) != shape:
            continue
        stems = _stem(value, branches[0]), _stem(pairs[value], branches[1])
        if min(map(len, stems)) >= _FEWEST and all(map(_is_closed, stems, (value, pairs[value]))):
            return value
    return None


def _branch(group: TracedGroup) -> set[ir.Value]:
    """Return the values that depend on a task weight, these included."""
    found = {value for name, value in group.model.graph.initializers.items() if name in group.weights}
    for node in group.model.graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _stem(value: ir.Value, branch: Collection[ir.Value]) -> set[ir.Node]:
    """Return the operators of the branch from which a value is computed."""
    found, left = set[ir.Node](), [value.producer()]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [each.producer() for each in node.inputs if each is not None and each in branch]
    return found


def _is_closed(stem: Collection[ir.Node], value: ir.Value) -> bool:
    """Return whether other operators read only this value of a stem."""
    made = {each for node in stem for each in node.outputs} - {value}
    return not any(each.is_graph_output() or any(node not in stem for node, _ in each.uses()) for each in made)


def _equal_values(one: TracedGroup, other: TracedGroup) -> dict[ir.Value, ir.Value]:
    """Return values of one group -> values of another that are equal if task weights with the same generic name are."""
    pairs = dict(zip(one.model.graph.inputs, other.model.graph.inputs, strict=True))
    names = {other.generic_names.get(name): name for name in other.weights}
    theirs = other.model.graph.initializers
    contents: dict[object, list[ir.Value]] = {}
    for name, value in theirs.items():
        if name not in other.weights and value.const_value is not None:
            contents.setdefault((value.const_value.dtype, tuple(value.const_value.shape)), []).append(value)
    for name, value in one.model.graph.initializers.items():
        mate = None
        if name in one.weights:
            same = names.get(one.generic_names.get(name))
            if same is not None and _shapes(one, name) == _shapes(other, same):
                mate = theirs.get(same)
        elif value.const_value is not None:
            key = (value.const_value.dtype, tuple(value.const_value.shape))
            mate = next((each for each in contents.get(key, ()) if _same_numbers(value, each)), None)
        if mate is not None:
            pairs[value] = mate
    made = {_key(node, node.inputs): node for node in other.model.graph}
    for node in one.model.graph:
        if all(value is None or value in pairs for value in node.inputs):
            mates = [None if value is None else pairs[value] for value in node.inputs]
            if (found := made.get(_key(node, mates))) is not None:
                pairs.update(zip(node.outputs, found.outputs, strict=True))
    return pairs


def _shapes(group: TracedGroup, name: str) -> set[tuple[int, ...]]:
    return {array.shape for array in group.weights[name]}


def _same_numbers(one: ir.Value, other: ir.Value) -> bool:
    a, b = const_array(one), const_array(other)
    if a is None or b is None:
        return False
    return (a.ctypes.data == b.ctypes.data and a.strides == b.strides) or a.tobytes() == b.tobytes()


def _key(node: ir.Node, inputs: Sequence[ir.Value | None]) -> object:
    attributes = tuple(sorted((name, str(attribute)) for name, attribute in node.attributes.items()))
    return node.domain, node.op_type, attributes, len(node.outputs), tuple(map(id, inputs))


def _divide(
    groups: Sequence[TracedGroup],
    cuts: Mapping[int, ir.Value | None],
    equal: Mapping[int, Mapping[ir.Value, ir.Value]],
) -> Divided:
    """Divide groups with a common stem, each at its value in `cuts`."""
    (first, cut), *others = cuts.items()
    if cut is None:
        return Divided(None, {first: groups[first]})
    graph = groups[first].model.graph
    weights: dict[str, list[np.ndarray]] = {}
    for name, arrays in groups[first].weights.items():
        if name not in graph.initializers:  # nothing reads it
            continue
        more = [(number, equal[number].get(graph.initializers[name])) for number, _ in others]
        if all(value is not None for _, value in more):
            rest = [array for number, value in more if value is not None for array in groups[number].weights[str(value.name)]]
            weights[name] = [*arrays, *rest]
    model = groups[first].model.clone()
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [made[cut.name]]
    tasks = tuple(name for number in cuts for name in groups[number].tasks)
    stem = _read(replace(groups[first], tasks=tasks, model=model, weights=weights))
    return Divided(stem, {number: _rest(groups[number], value) for number, value in cuts.items() if value is not None})


def _rest(group: TracedGroup, cut: ir.Value) -> TracedGroup:
    """Return a group, changed in place, that reads the value `cut` from an input."""
    graph = group.model.graph
    given = ir.Value(name=STEM, shape=cut.shape, type=cut.type)
    if cut.is_graph_output():  # the group's result is the stem: hidden states without a head
        build = Builder(graph, "")
        replace_value(cut, build.node("Identity", [given], shape=cut.shape, dtype=cut.dtype))
        graph.insert_before(graph[0], build.take())
    else:
        cut.replace_all_uses_with(given)
    graph.inputs.append(given)
    return _read(group)


def _read(group: TracedGroup) -> TracedGroup:
    """Remove what the outputs of a group do not need; inputs stay."""
    common.RemoveUnusedNodesPass()(group.model)
    weights = {name: arrays for name, arrays in group.weights.items() if name in group.model.graph.initializers}
    return replace(group, weights=weights)
