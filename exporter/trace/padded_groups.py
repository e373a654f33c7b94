"""Groups of tasks whose adapters differ in size only, which are padded with zeros and computed as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from exporter.errors import ExportError
from exporter.models.binding import generic_names
from exporter.plan import Task
from exporter.planning.padded_structure import larger_structure
from exporter.prune.task_groups import TaskGroup
from exporter.trace.padding_costs import MOST_BYTES, MOST_OPERATIONS, Member, Padding, common_shapes, member_of, padding_costs
from exporter.trace.zero_padding import filled, is_head, resize
from exporter.traced_group import TracedGroup

__all__ = ["PaddedGroup", "pad_groups", "with_padded"]


@dataclass(frozen=True)
class PaddedGroup:
    """Task groups that one graph computes.

    Attributes:
        template: what is traced; of several groups a patched copy of the largest one, with the sizes of `structure`.
        members: the task groups, in the order of the plan.
        structure: the structure into which all their tasks fit.
        weights: generic name -> task -> its weight in the padded size; empty for a single member.
        padding: task -> its costs; tasks that are not padded are absent.
    """

    template: TaskGroup
    members: tuple[TaskGroup, ...]
    structure: str
    weights: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    padding: Mapping[str, Padding] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all members."""
        return tuple(task for member in self.members for task in member.tasks)


def pad_groups(task_groups: Sequence[TaskGroup]) -> tuple[tuple[PaddedGroup, ...], tuple[str, ...]]:
    """Combine task groups whose adapters differ in rank, bottleneck size or the modules that have a LoRA.

    Groups are combined where their adapters begin in the same layer, so that the shared trunk does not get shorter, and where
    padding costs no task more than MOST_OPERATIONS and MOST_BYTES. The largest group comes first; each other one joins the
    first that it fits into.

    Args:
        task_groups: the task groups of a plan, by structure.

    Returns:
        The groups, in the order of their first tasks, and a note for each group that is apart because padding would cost more.
    """
    structures = [task_group.tasks[0].structure for task_group in task_groups]
    fitting: list[list[int]] = []  # numbers of groups whose structures fit into one
    for number, structure in enumerate(structures):
        for numbers in fitting:
            if larger_structure([structures[numbers[0]], structure]) is not None:
                numbers.append(number)
                break
        else:
            fitting.append([number])
    padded: list[PaddedGroup] = []
    notes: list[str] = []
    for numbers in fitting:
        if len(numbers) == 1:
            only = task_groups[numbers[0]]
            padded.append(PaddedGroup(only, (only,), only.tasks[0].structure))
        else:
            padded += _combined([task_groups[number] for number in numbers], notes)
    order = {task.name: number for number, group in enumerate(task_groups) for task in group.tasks}
    return tuple(sorted(padded, key=lambda each: order[each.tasks[0].name])), tuple(notes)


def _combined(groups: Sequence[TaskGroup], notes: list[str]) -> list[PaddedGroup]:
    members = sorted(map(member_of, groups), key=lambda member: -member.size)  # sorted is stable
    found: list[list[Member]] = []
    for member in members:
        costs = [padding_costs([*each, member]) for each in found]
        for each, cost in zip(found, costs, strict=True):
            if cost is not None and all(padding.is_allowed for padding in cost.values()):
                each.append(member)
                break
        else:
            names = {task.name for task in member.group.tasks}
            for each, cost in zip(found, costs, strict=True):
                if cost is not None and (worst := [cost[name] for name in names if name in cost]):
                    notes.append(_apart(member, each[0], worst[0]))
                    break
            found.append([member])
    return [_padded(each, groups) for each in found]


def _apart(member: Member, other: Member, cost: Padding) -> str:
    names, theirs = (", ".join(task.name for task in each.group.tasks) for each in (member, other))
    operations, allowed = f"{100 * cost.cost.operations:.0f} %", f"{100 * MOST_OPERATIONS:.0f} %"
    return (
        f"{names}: a branch next to that of {theirs}, because zeros would add {operations} operations (bound {allowed}) and "
        f"make the adapter {cost.growth:.0f} times as large (bound {MOST_BYTES:.0f})"
    )


def _padded(members: Sequence[Member], groups: Sequence[TaskGroup]) -> PaddedGroup:
    own = tuple(group for group in groups if any(member.group is group for member in members))
    if len(members) == 1:
        return PaddedGroup(own[0], own, own[0].tasks[0].structure)
    costs, shapes = padding_costs(members), common_shapes(members)
    structure = larger_structure([group.tasks[0].structure for group in own])
    assert costs is not None
    assert shapes is not None
    assert structure is not None  # they were combined
    by_task = {name: weights for member in members for name, weights in member.weights.items()}
    largest = max(members, key=lambda member: max(map(len, member.weights.values())))
    first = largest.group.tasks[0]
    like = by_task[first.name]
    tasks = [task.name for group in own for task in group.tasks]
    weights = {}
    for generic, shape in shapes.items():
        arrays = {name: by_task[name].get(generic) for name in tasks}
        weights[generic] = {
            name: array if array is not None and is_head(generic) else filled(array, shape, like[generic])
            for name, array in arrays.items()
        }
    resize(largest.patched.model, first, weights)
    return PaddedGroup(largest.patched, own, structure, weights, costs)


def with_padded(group: PaddedGroup, traced: TracedGroup) -> TracedGroup:
    """Return the traced template of a group with the weights of all its tasks.

    Raises:
        ExportError: a weight of the template has no generic name.
    """
    if not group.weights:
        return traced
    first = group.template.tasks[0]
    names = generic_names(group.template.model, first)
    tasks = tuple(task.name for task in group.tasks)
    weights = {}
    for name, generic in names.items():
        if name not in traced.model.graph.initializers:
            continue
        arrays = [group.weights[generic][task] for task in tasks]
        if any(array.ctypes.data != arrays[0].ctypes.data for array in arrays[1:]):
            weights[name] = arrays
    if missing := sorted(set(traced.weights) - set(names)):
        raise ExportError(
            f"the weights {', '.join(missing)} of the task {first.name!r} cannot be matched with those of other tasks: export "
            "it separately (--tasks), and report it with the model's configuration"
        )
    return replace(traced, tasks=tasks, weights=weights)
