"""Groups of tasks whose adapters differ in size only, which are filled up with zeros and computed as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from exporter.errors import ExportError
from exporter.models.binding import task_slots
from exporter.models.peft_modules import encoder_layers_in, layer_of
from exporter.plan import Task
from exporter.planning.padded_structure import larger_structure
from exporter.prune.task_groups import TaskGroup
from exporter.trace.slot_arrays import filled, grown_axis, is_head, may_be_missing, resize, slot_arrays
from exporter.trace.trace import traceable
from exporter.traced_group import TracedGroup

__all__ = ["MOST_BYTES", "MOST_OPERATIONS", "PaddedGroup", "Padding", "pad_groups", "padding_of", "with_padded"]

# The bounds of padding, for each task: operations of its branch, and bytes of its adapter, relative to those without zeros.
# A rank of 8 next to 64 in BERT-base (query and value) costs 2.4 % operations and 8 times the bytes of an adapter.
MOST_OPERATIONS, MOST_BYTES = 0.15, 16.0


@dataclass(frozen=True)
class Padding:
    """Costs of the zeros of one task.

    Attributes:
        bytes: bytes of zeros in fp32.
        operations: additional operations relative to those of the task's branch without zeros.
        growth: bytes of its adapter with zeros relative to those without.
    """

    bytes: int
    operations: float
    growth: float

    @property
    def is_allowed(self) -> bool:
        """Whether the costs are within the bounds."""
        return self.operations <= MOST_OPERATIONS and self.growth <= MOST_BYTES


@dataclass(frozen=True)
class PaddedGroup:
    """Task groups that one graph computes.

    Attributes:
        template: what is traced; of several groups a patched copy of the largest one, with the sizes of `structure`.
        members: the task groups, in the order of the plan.
        structure: the structure into which all their tasks fit.
        weights: slot -> task -> its weight in the size of the slot; empty for a single member.
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


@dataclass(frozen=True)
class _Member:
    """A task group with a patched model and the weights of its tasks by slot."""

    group: TaskGroup
    patched: TaskGroup
    weights: Mapping[str, Mapping[str, np.ndarray]]
    first: int
    branch: int

    @property
    def size(self) -> int:
        return max(_adapter_bytes(weights) for weights in self.weights.values())


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
    families: list[list[int]] = []
    for number, structure in enumerate(structures):
        family = next((each for each in families if larger_structure([structures[each[0]], structure]) is not None), None)
        if family is None:
            families.append([number])
        else:
            family.append(number)
    padded: list[PaddedGroup] = []
    notes: list[str] = []
    for family in families:
        if len(family) == 1:
            only = task_groups[family[0]]
            padded.append(PaddedGroup(only, (only,), only.tasks[0].structure))
        else:
            padded += _combined([task_groups[number] for number in family], notes)
    order = {task.name: number for number, group in enumerate(task_groups) for task in group.tasks}
    return tuple(sorted(padded, key=lambda each: order[each.tasks[0].name])), tuple(notes)


def _combined(groups: Sequence[TaskGroup], notes: list[str]) -> list[PaddedGroup]:
    members = sorted(map(_member, groups), key=lambda member: -member.size)  # sorted is stable
    found: list[list[_Member]] = []
    for member in members:
        costs = [_costs([*each, member]) for each in found]
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


def _apart(member: _Member, other: _Member, cost: Padding) -> str:
    names, theirs = (", ".join(task.name for task in each.group.tasks) for each in (member, other))
    operations, allowed = f"{100 * cost.operations:.0f} %", f"{100 * MOST_OPERATIONS:.0f} %"
    return (
        f"{names}: a branch next to that of {theirs}, because zeros would add {operations} operations (bound {allowed}) and "
        f"make the adapter {cost.growth:.0f} times as large (bound {MOST_BYTES:.0f})"
    )


def _member(group: TaskGroup) -> _Member:
    patched = traceable(group)
    weights = {task.name: slot_arrays(patched, task) for task in group.tasks}
    without = group.layers_without_adapter(group.tasks[0])
    first = next(layer for layer in range(len(without) + 1) if layer not in without)
    return _Member(group, patched, weights, first, _branch_size(group.model, first))


def _branch_size(model: nn.Module, first: int) -> int:
    """Return the elements of the matrices of the layers from `first` on that no task changes."""
    found, encoder = {}, encoder_layers_in(model)
    for name, tensor in model.named_parameters():
        layer = layer_of(name, encoder)
        if tensor.dim() == 2 and layer is not None and layer >= first and ".weight" in name and not _is_adapter(name):
            found[tensor.data_ptr()] = tensor.numel()
    return sum(found.values())


def _is_adapter(name: str) -> bool:
    return any(part in name for part in ("lora_", "loras.", "adapters.", "modules_to_save"))


def _adapter_bytes(weights: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for slot, array in weights.items() if not is_head(slot) and grown_axis(slot) is not None)


def _shapes(members: Sequence[_Member]) -> dict[str, tuple[int, ...]] | None:
    """Return the largest shape of each slot; None if the weights differ in anything but ranks, bottlenecks and LoRA modules."""
    weights = [each for member in members for each in member.weights.values()]
    largest = max(weights, key=len)
    if any(not each.keys() <= largest.keys() for each in weights):
        return None
    shapes = {}
    for slot in largest:
        found = [each[slot] for each in weights if slot in each]
        if len(found) < len(weights) and not (may_be_missing(slot)):
            return None
        axis, first = grown_axis(slot), found[0]
        sizes = [array.shape[axis] for array in found] if axis is not None else []
        for array in found:
            same = array.ndim == first.ndim and array.dtype == first.dtype
            own, its = (list(each.shape) for each in (array, first))
            if axis is not None and same:
                own[axis] = its[axis] = 0
            # The number of labels may differ, as in a group of one structure.
            if not same or (own != its and not is_head(slot)):
                return None
        shape = list(largest[slot].shape)
        if axis is not None:
            shape[axis] = max(sizes)
        shapes[slot] = tuple(shape)
    return shapes


def _costs(members: Sequence[_Member]) -> dict[str, Padding] | None:
    """Return the costs of the tasks that would be padded; None if the groups cannot be one."""
    if len({member.first for member in members}) > 1 or len(members) < 2:
        return None if len(members) > 1 else {}
    shapes = _shapes(members)
    if shapes is None or larger_structure([member.group.tasks[0].structure for member in members]) is None:
        return None
    if not all(_same_trunk(members[0].patched.model, member.patched.model) for member in members[1:]):
        return None
    costs = {}
    for member in members:
        for name, weights in member.weights.items():
            if (cost := _cost(member, weights, shapes)) is not None:
                costs[name] = cost
    return costs


def _cost(member: _Member, weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Padding | None:
    """Return the cost of filling up the weights of a task to these shapes; None if nothing is filled up."""
    sizes = {slot: int(np.prod(shape)) for slot, shape in shapes.items() if slot not in weights or not is_head(slot)}
    zeros = sum(sizes[slot] - (weights[slot].size if slot in weights else 0) for slot in sizes)
    own = sum(weights[slot].size for slot in sizes if slot in weights)
    if not zeros:
        return None
    return Padding(4 * zeros, zeros / max(1, member.branch + own), (own + zeros) / max(1, own))


def padding_of(group: TaskGroup, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Padding]:
    """Return the costs of filling up the tasks of a group.

    Args:
        group: tasks of one structure.
        shapes: slot -> shape into which its weights are filled; those of heads do not count.

    Returns:
        Task -> its costs; tasks that are not filled up are absent.
    """
    member = _member(group)
    costs = {name: _cost(member, weights, shapes) for name, weights in member.weights.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}


def _same_trunk(one: nn.Module, other: nn.Module) -> bool:
    """Return whether the weights that are of no task are the same in two models."""
    known = {name: tensor for name, tensor in one.named_parameters() if "<" not in name}
    for name, tensor in other.named_parameters():
        mate = known.get(name)
        if mate is None or mate.data_ptr() == tensor.data_ptr():
            continue
        if mate.shape != tensor.shape or not torch.equal(mate, tensor):
            return False
    return True


def _padded(members: Sequence[_Member], groups: Sequence[TaskGroup]) -> PaddedGroup:
    own = tuple(group for group in groups if any(member.group is group for member in members))
    if len(members) == 1:
        return PaddedGroup(own[0], own, own[0].tasks[0].structure)
    costs, shapes = _costs(members), _shapes(members)
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
    for slot, shape in shapes.items():
        arrays = {name: by_task[name].get(slot) for name in tasks}
        weights[slot] = {
            name: array if array is not None and is_head(slot) else filled(array, shape, like[slot])
            for name, array in arrays.items()
        }
    resize(largest.patched.model, first, weights)
    return PaddedGroup(largest.patched, own, structure, weights, costs)


def with_padded(group: PaddedGroup, traced: TracedGroup) -> TracedGroup:
    """Return the traced template of a group with the weights of all its tasks.

    Raises:
        ExportError: a weight of the template has no slot.
    """
    if not group.weights:
        return traced
    first = group.template.tasks[0]
    slots = task_slots(group.template.model, first)
    tasks = tuple(task.name for task in group.tasks)
    weights = {}
    for name, slot in slots.items():
        if name not in traced.model.graph.initializers:
            continue
        arrays = [group.weights[slot][task] for task in tasks]
        if any(array.ctypes.data != arrays[0].ctypes.data for array in arrays[1:]):
            weights[name] = arrays
    if missing := sorted(set(traced.weights) - set(slots)):
        raise ExportError(f"the weights {', '.join(missing)} of the task {first.name!r} have no slot")
    return replace(traced, tasks=tasks, weights=weights)
