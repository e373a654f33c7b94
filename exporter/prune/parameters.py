"""Counts adapter parameters with and without sharing across layers and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from exporter.models.binding import task_entries
from exporter.prune.prune import TaskGroup


def adapter_parameters(task_groups: Sequence[TaskGroup]) -> tuple[int, int]:
    """Parameters of the tasks' adapters and fusion layers that are not dropped: (without, with) sharing.

    Without: each adapter of each layer counts for itself. With: equal weights count once, whether they are tied in PyTorch or
    equal in a checkpoint; AdapterDrop (arXiv 2010.11918) ties adapters across layers.
    """
    entries: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for task_group in task_groups:
        layers = _layers(task_group.model)
        for task in task_group.tasks:
            for prefix, name, tensors in task_entries(task_group.model, task):
                # What lies in no layer, such as a pool of prefixes for all of them, is never dropped.
                layer = layers.get(prefix.rpartition(".")[0], task.drop)
                if layer >= task.drop:
                    entries[prefix, name] = tensors
    total, kept = 0, {}
    for tensors in entries.values():
        # A module that is registered under two names is one.
        for tensor in {tensor.data_ptr(): tensor for tensor in tensors.values()}.values():
            total += tensor.numel()
            kept[_digest(tensor)] = tensor.numel()
    return total, sum(kept.values())


def _layers(model: Any) -> dict[str, int]:
    """The modules that hold one layer's adapters by dotted name -> the layer."""
    return {name: module.layer_idx for name, module in model.named_modules() if hasattr(module, "layer_idx")}


def _digest(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), hashlib.blake2b(tensor.contiguous().numpy().tobytes()).digest()
