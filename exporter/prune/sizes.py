"""Counts adapter parameters with and without sharing across layers and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from exporter.models.binding import task_entries
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup

# A number in fp32 takes as much as so many in a lower precision, where all of them can be stored in it.
_VALUES_PER_FP32 = {"fp16": 2, "int8": 4}


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


def stored_bytes(task_groups: Iterable[TaskGroup]) -> int:
    """What the branches' weights take in fp32, each counted once."""
    tensors = {p.data_ptr(): p.nbytes for task_group in task_groups for p in task_group.model.parameters()}
    return sum(tensors.values())


def reference_bytes(variants: Iterable[Iterable[TaskGroup]], plan: Plan) -> int:
    """What the graph in fp32 takes that is proved first where the plan's precision is lower: one variant's after another."""
    return max(map(stored_bytes, variants)) if plan.rounds else 0


def minimum_bytes(variants: Sequence[Sequence[TaskGroup]], plan: Plan) -> int:
    """What an export of the variants takes on disk at the least: its weights, each once, and the graph in fp32 that is proved
    first and removed."""
    written = stored_bytes(task_group for task_groups in variants for task_group in task_groups)
    return written // _VALUES_PER_FP32.get(plan.precision, 1) + reference_bytes(variants, plan)
