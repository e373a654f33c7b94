"""Counts adapter parameters with and without sharing across layers and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from .binding import task_entries
from .prune import Branch


def adapter_parameters(branches: Sequence[Branch]) -> tuple[int, int]:
    """Parameters of the tasks' adapters and fusion layers that are not dropped: (without, with) sharing.

    Without: each adapter of each layer counts for itself. With: equal weights count once, whether they are tied in PyTorch or
    equal in a checkpoint; AdapterDrop (arXiv 2010.11918) ties adapters across layers.
    """
    entries: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for branch in branches:
        layers = _layers(branch.model)
        for task in branch.tasks:
            for prefix, name, tensors in task_entries(branch.model, task):
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
