"""Costs of padding the adapters of tasks with zeros to one size, and their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from exporter.models.peft_modules import encoder_layers_in, layer_of
from exporter.plan import TaskPadding
from exporter.planning.padded_structure import larger_structure
from exporter.prune.task_groups import TaskGroup
from exporter.trace.trace import traceable
from exporter.trace.zero_padding import generic_weights, grown_axis, is_head, may_be_missing

__all__ = ["MOST_BYTES", "MOST_OPERATIONS", "Member", "Padding", "common_shapes", "member_of", "padding_costs", "padding_of"]

# The bounds of padding, for each task: operations of its branch, and bytes of its adapter, relative to those without zeros.
# A rank of 8 next to 64 in BERT-base (query and value) costs 2.4 % operations and 8 times the bytes of an adapter.
MOST_OPERATIONS, MOST_BYTES = 0.15, 16.0


@dataclass(frozen=True)
class Padding:
    """Zeros in the weights of one task.

    Attributes:
        cost: their bytes and operations.
        growth: bytes of its adapter with zeros relative to those without.
    """

    cost: TaskPadding
    growth: float

    @property
    def is_allowed(self) -> bool:
        """Whether the costs are within the bounds."""
        return self.cost.operations <= MOST_OPERATIONS and self.growth <= MOST_BYTES


@dataclass(frozen=True)
class Member:
    """A task group with what the padding of its tasks is computed from.

    Attributes:
        group: the task group.
        patched: the same with a model that is patched for the trace.
        weights: task -> generic name -> weight.
        first: the lowest layer with an adapter.
        branch: elements of the matrices, from that layer on, that no task changes.
    """

    group: TaskGroup
    patched: TaskGroup
    weights: Mapping[str, Mapping[str, np.ndarray]]
    first: int
    branch: int

    @property
    def size(self) -> int:
        """Bytes of the largest adapter."""
        return max(_adapter_bytes(weights) for weights in self.weights.values())


def member_of(group: TaskGroup) -> Member:
    """Return a task group with what its padding is computed from."""
    patched = traceable(group)
    weights = {task.name: generic_weights(patched, task) for task in group.tasks}
    without = group.layers_without_adapter(group.tasks[0])
    first = next(layer for layer in range(len(without) + 1) if layer not in without)
    return Member(group, patched, weights, first, _branch_size(group.model, first))


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
    return sum(array.nbytes for generic, array in weights.items() if not is_head(generic) and grown_axis(generic) is not None)


def common_shapes(members: Sequence[Member]) -> dict[str, tuple[int, ...]] | None:
    """Return the largest shape of each weight; None if weights differ in anything but ranks, bottlenecks and LoRA modules."""
    weights = [each for member in members for each in member.weights.values()]
    largest = max(weights, key=len)
    if any(not each.keys() <= largest.keys() for each in weights):
        return None
    shapes = {}
    for generic in largest:
        found = [each[generic] for each in weights if generic in each]
        if len(found) < len(weights) and not may_be_missing(generic):
            return None
        axis, first = grown_axis(generic), found[0]
        sizes = [array.shape[axis] for array in found] if axis is not None else []
        for array in found:
            same = array.ndim == first.ndim and array.dtype == first.dtype
            own, its = (list(each.shape) for each in (array, first))
            if axis is not None and same:
                own[axis] = its[axis] = 0
            # The number of labels may differ, as in a group of one structure.
            if not same or (own != its and not is_head(generic)):
                return None
        shape = list(largest[generic].shape)
        if axis is not None:
            shape[axis] = max(sizes)
        shapes[generic] = tuple(shape)
    return shapes


def padding_costs(members: Sequence[Member]) -> dict[str, Padding] | None:
    """Return the costs of the tasks that would be padded; None if the groups cannot be one."""
    if len({member.first for member in members}) > 1 or len(members) < 2:
        return None if len(members) > 1 else {}
    shapes = common_shapes(members)
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


def _cost(member: Member, weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Padding | None:
    """Return the cost of padding the weights of a task to these shapes; None if nothing is padded."""
    sizes = {each: int(np.prod(shape)) for each, shape in shapes.items() if each not in weights or not is_head(each)}
    zeros = sum(sizes[each] - (weights[each].size if each in weights else 0) for each in sizes)
    own = sum(weights[each].size for each in sizes if each in weights)
    if not zeros:
        return None
    return Padding(TaskPadding(4 * zeros, zeros / max(1, member.branch + own)), (own + zeros) / max(1, own))


def padding_of(group: TaskGroup, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Padding]:
    """Return the costs of padding the tasks of a group.

    Args:
        group: tasks of one structure.
        shapes: generic name -> shape into which the weights are filled; those of heads do not count.

    Returns:
        Task -> its costs; tasks that are not padded are absent.
    """
    member = member_of(group)
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
