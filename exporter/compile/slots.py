"""The slots graph: a routed graph that takes the weights of its tasks from inputs in place of initializers."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from exporter.compile.finish import strip, write_first_tasks
from exporter.compile.pipeline import route_slots, run_passes
from exporter.compile.rewrite.axes import carried_from
from exporter.compile.target_passes import target_passes
from exporter.errors import ExportError
from exporter.group_names import group_name, group_of
from exporter.models.inputs import BATCH
from exporter.plan import Plan
from exporter.traced_group import TracedGroup
from runtime.bundle import ROUTE_INPUTS

__all__ = ["SlotGraph", "compile_slots", "label_axes"]


@dataclass(frozen=True)
class SlotGraph:
    """A slots graph, and weights in the form that it takes.

    Attributes:
        model: the routed graph; the weights of the tasks are inputs [slots, ...], named after their group, "tasks0/...".
        inputs: name of such an input -> the number of its group.
        rows: task -> input of its group -> its weights, the input's shape without the first axis.
        fingerprint: name -> hash of everything else in the graph: operators, and initializers with their contents.
    """

    model: ir.Model
    inputs: Mapping[str, int]
    rows: Mapping[str, Mapping[str, np.ndarray]]
    fingerprint: Mapping[str, str]


def compile_slots(groups: Sequence[TracedGroup], columns: Sequence[int], plan: Plan, slots: int) -> SlotGraph:
    """Compile clean groups to the slots graph, and the weights of their tasks to the form that it takes.

    The graph depends on the templates, on `columns` and on the options of the plan, not on the weights of the tasks.

    Args:
        groups: the groups, whose templates are changed in place; a group may have no tasks.
        columns: the most labels that a task of each group may have.
        plan: the options: target, precision and operator set.
        slots: slots of each group.

    Raises:
        ExportError: these tasks cannot be routed.
    """
    bound = [_with_random(number, *each) for number, each in enumerate(zip(groups, columns, strict=True))]
    # While the graph is compiled, each group has at least as many places as tasks.
    places, every_row = max(slots, *(len(group.tasks) for group in bound)), plan.target == "tensorrt"
    try:
        graph = route_slots(bound, BATCH, places, every_row)
        last = target_passes(plan.target, plan.precision, graph, None, plan.opset, plan.int8_ranges, slots)
        graph = run_passes(graph, last, "slots", [])
    except Exception as error:  # of passes, onnx-ir, onnxscript and the reference implementation of ONNX
        reason = str(error.__cause__ or error) or type(error).__name__
        raise ExportError(f"these tasks cannot be compiled to a graph with slots: {reason}; omit --slots") from error
    _set_numbers(graph, len(bound), places, slots)
    found = _task_initializers(graph, bound)
    rows: dict[str, dict[str, np.ndarray]] = {name: {} for group in groups for name in group.tasks}
    for value, number in found.items():
        assert value.const_value is not None  # an initializer
        array = value.const_value.numpy()
        first = len(bound[number].tasks) - len(groups[number].tasks)
        for place, name in enumerate(bound[number].tasks[first:], first):
            rows[name][str(value.name)] = array[place]
    inputs = {str(value.name): number for value, number in found.items()}
    for value in found:
        _make_input(graph.graph, value, slots)
    strip(graph)
    write_first_tasks(graph, [] if every_row else range(0, len(bound) * slots, slots))
    return SlotGraph(graph, inputs, rows, _fingerprint(graph))


def _with_random(number: int, group: TracedGroup, columns: int) -> TracedGroup:
    """Return the group number `number` with tasks of random weights before its own.

    Passes that look for equal or neutral weights, such as MergeWeights, then find nothing that a later task might not share.
    One of these tasks has a single label and the others have the most, so that the graph masks labels even if all real tasks
    have as many. Its position is the number of the group: the masks of two groups are never equal, and are not merged.
    """
    counts = [*[columns] * number, 1, columns]
    axes = label_axes(group)
    weights: dict[str, list[np.ndarray]] = {}
    for name in group.weights:
        value = group.model.graph.initializers[name]
        assert value.const_value is not None  # a weight
        template = value.const_value.numpy()
        made = []
        for place, count in enumerate(counts):
            shape = list(template.shape)
            if name in axes:
                shape[axes[name]] = count
            made.append(_random(template, shape, f"{name}#{place}"))
        weights[name] = [*made, *group.weights[name]]
    return replace(group, tasks=(*(f"random weights {place}" for place in range(len(counts))), *group.tasks), weights=weights)


def _random(template: np.ndarray, shape: Sequence[int], seed: str) -> np.ndarray:
    """Weights of this shape that depend on the seed only; integers, which select something, stay those of the template."""
    if not np.issubdtype(template.dtype, np.floating):
        return template
    # Positive, because a graph may take the root of a weight or divide by it.
    numbers = np.random.default_rng(zlib.crc32(seed.encode())).uniform(0.01, 0.05, tuple(shape))
    return numbers.astype(template.dtype)


def label_axes(group: TracedGroup) -> dict[str, int]:
    """Return weight -> the axis that counts labels, of the weights between the last product of the head and the output.

    Empty if all tasks have the same number of columns, as embeddings have, or if the head ends in another operator.
    """
    weights = group.weights
    value, axes = group.model.graph.outputs[0], dict[str, int]()
    labels = len(value.shape or ()) - 1  # the axis of the labels
    while (node := value.producer()) is not None and node.domain == "":
        own = {index: _weight(each, weights) for index, each in enumerate(node.inputs)}
        if len(list(value.uses())) > 1 or (labels != len(value.shape or ()) - 1 and any(own.values())):
            break  # something else may mix the columns, as the norm of an embedding does
        if node.op_type == "Gemm" and own.get(1):
            name, flipped = own[1] or ("", False)
            axes[name] = int((node.attributes.get_int("transB", 0) == 0) != flipped)
            if bias := own.get(2):
                axes[bias[0]] = -1
            return axes
        if node.op_type == "MatMul" and own[1]:
            name, flipped = own[1]
            axes[name] = int(not flipped)
            return axes
        if node.op_type == "Add" and len(offsets := [found for found in own.values() if found]) == 1:
            axes[offsets[0][0]] = -1
            value = next(each for index, each in enumerate(node.inputs) if not own[index] and each is not None)
        elif (source := carried_from(node, labels)) is not None:
            value, labels = source
        else:
            break
    return {}


def _weight(value: ir.Value | None, weights: Collection[str]) -> tuple[str, bool] | None:
    """Return (name, whether it is transposed) if the value is a task weight of a head."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", (1, 0))) == (1, 0):
        found = _weight(node.inputs[0], weights)
        return None if found is None else (found[0], not found[1])
    return (str(value.name), False) if value is not None and value.name in weights else None


def _task_initializers(graph: ir.Model, groups: Sequence[TracedGroup]) -> dict[ir.Value, int]:
    """Return the stacks of task weights -> the number of their group: what rows gather by the number of their task.

    The task ids of a single group are the input itself; several groups look up their own ids in a table.
    """
    found: dict[ir.Value, int] = {}
    numbers = {group_name(number): number for number in range(len(groups))}
    for name, value in sorted(graph.graph.initializers.items()):
        number = numbers.get(group_of(name) or "")
        if number is None or value.const_value is None:
            continue
        gathers = [node for node, index in value.uses() if node.op_type == "Gather" and index == 0]
        by_slot = [node for node in gathers if node.attributes.get_int("axis", 0) == 0 and not _is_table(node, len(groups))]
        if len(by_slot) == len(list(value.uses())) and tuple(value.shape or ())[:1] == (len(groups[number].tasks),):
            found[value] = number
    return found


def _is_table(node: ir.Node, groups: int) -> bool:
    """Return whether a Gather looks up the ids of a group's tasks in a graph of several groups."""
    ids = node.inputs[1]
    return groups > 1 and ids is not None and ids.name == ROUTE_INPUTS[1]


def _set_numbers(graph: ir.Model, groups: int, places: int, slots: int) -> None:
    """Shorten the tables of task ids from `places` to `slots` for each group."""
    for value in list(graph.graph.initializers.values()):
        if groups > 1 and any(
            node.op_type == "Gather" and index == 0 and _is_table(node, groups) for node, index in value.uses()
        ):
            assert value.const_value is not None
            table = value.const_value.numpy().reshape(groups, places)[:, :slots].reshape(-1)
            value.const_value = ir.tensor(np.ascontiguousarray(table), name=str(value.name))
            value.shape = ir.Shape(table.shape)


def _make_input(graph: ir.Graph, value: ir.Value, slots: int) -> None:
    assert value.const_value is not None
    del graph.initializers[str(value.name)]
    value.shape = ir.Shape([slots, *value.const_value.numpy().shape[1:]])
    value.const_value = None
    graph.inputs.append(value)


def _fingerprint(graph: ir.Model) -> dict[str, str]:
    """Return hashes of what two equal graphs have in common: the operators in their order, inputs, and each initializer."""
    operators = hashlib.sha256()
    for node in graph.graph:
        attributes = sorted((name, str(attribute)) for name, attribute in node.attributes.items())
        names = [None if value is None else value.name for value in node.inputs]
        operators.update(repr((node.domain, node.op_type, names, [out.name for out in node.outputs], attributes)).encode())
    for value in graph.graph.inputs:
        operators.update(repr((value.name, str(value.dtype), str(value.shape))).encode())
    found = {"operators": operators.hexdigest()}
    for name, value in sorted(graph.graph.initializers.items()):
        if value.const_value is not None:
            tensor = value.const_value
            head = repr((str(tensor.dtype), tensor.numpy().shape)).encode()
            found[f"weight {name}"] = hashlib.sha256(head + tensor.tobytes()).hexdigest()
    return found
