"""Zeros in the weights of a task whose rank or bottleneck is smaller than another's, or that has fewer modules.

Weights are identified by their generic names (`exporter.models.binding.generic_names`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from exporter.models.binding import generic_names
from exporter.plan import Task
from exporter.prune.task_groups import TaskGroup

__all__ = ["filled", "generic_weights", "grown_axis", "is_head", "may_be_missing", "may_grow", "resize"]

_HEADS = "heads."
# The axis of a weight that the rank or the bottleneck gives, by the end of its generic name. Other weights have no such axis.
_AXES = {
    "down.<0>": 0,
    "up.<0>": 1,
    "<0>.lora_A": 0,
    "<0>.lora_B": 1,
    "<0>.adapter_up.weight": 1,
}
_DOWN, _BLOCKS = "<0>.adapter_down.", "<0>.blocks."
# Ends of the generic names of a LoRA's weights; where a task has none, its LoRA is zero.
_LORA = ("down.<0>", "up.<0>", "biases.<0>", "<0>.lora_A", "<0>.lora_B")


def generic_weights(task_group: TaskGroup, task: Task) -> dict[str, np.ndarray]:
    """Return generic name -> weight of a task.

    Args:
        task_group: a group returned by `traceable`.
        task: one of its tasks.
    """
    names = generic_names(task_group.model, task)
    return {generic: _tensor(task_group.model, name).detach().numpy() for name, generic in names.items()}


def _tensor(model: nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    owner: Any = model
    for part in filter(None, path.split(".")):
        owner = owner._modules[part]
    # Those of PEFT's dictionaries of buffers and parameters are no attributes with any name.
    tensor: torch.Tensor = {**owner._parameters, **owner._buffers}[key]
    return tensor


def grown_axis(generic: str) -> int | None:
    """Return the axis of a weight that the rank or bottleneck gives; None for a weight without one."""
    if _DOWN in generic or _BLOCKS in generic:
        return 0
    return next((axis for end, axis in _AXES.items() if generic.endswith(end)), None)


def is_head(generic: str) -> bool:
    """Return whether a weight is one of a head, whose sizes depend on the labels."""
    return generic.startswith(_HEADS) or "modules_to_save" in generic


def may_be_missing(generic: str) -> bool:
    """Return whether a task that lacks the weight equals one whose weight is zero."""
    return generic.endswith(_LORA) or _BLOCKS in generic


def may_grow(generic: str, array: np.ndarray, like: np.ndarray) -> bool:
    """Return whether a weight gets the shape of another one by zeros along the axis of its rank or bottleneck."""
    axis = grown_axis(generic)
    return all(
        own == its or (number == axis and own < its)
        for number, (own, its) in enumerate(zip(array.shape, like.shape, strict=True))
    )


def filled(array: np.ndarray | None, shape: Sequence[int], like: np.ndarray) -> np.ndarray:
    """Return a weight with zeros up to a shape, or only zeros for a task without it."""
    if array is None:
        return np.zeros(shape, like.dtype)
    return np.pad(array, [(0, most - size) for size, most in zip(array.shape, shape, strict=True)])


def resize(model: nn.Module, task: Task, weights: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Give the weights of a task their padded sizes, in a copy of the model that is only traced."""
    for name, generic in generic_names(model, task).items():
        array = weights[generic][task.name]
        tensor = _tensor(model, name)
        if tuple(tensor.shape) != array.shape:
            path, _, key = name.rpartition(".")
            owner: Any = model.get_submodule(path)
            value = nn.Parameter(torch.from_numpy(array), requires_grad=False)
            if isinstance(owner, nn.ParameterDict):
                owner[key] = value
            else:
                owner.register_parameter(key, value)
