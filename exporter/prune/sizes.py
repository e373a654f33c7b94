"""Numbers of adapter parameters and bytes of weights, with and without sharing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch

from exporter.models.binding import task_entries
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup

# How many values of a lower precision take the space of one fp32 value; an upper bound for the whole file.
_VALUES_PER_FP32 = {"fp16": 2, "int8": 4}


def adapter_parameters(task_groups: Sequence[TaskGroup]) -> tuple[int, int]:
    """Count the parameters of the adapters and fusion layers.

    Adapters can be tied across layers, as in AdapterDrop (arXiv 2010.11918).

    Returns:
        The number of parameters in all layers, and that number with equal weights counted once, whether they are tied in
        PyTorch or equal in a checkpoint.
    """
    entries: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            for prefix, name, tensors in task_entries(task_group.model, task):
                entries[prefix, name] = tensors
    total, kept = 0, {}
    for tensors in entries.values():
        # A module that is registered under two names counts once.
        for tensor in {tensor.data_ptr(): tensor for tensor in tensors.values()}.values():
            total += tensor.numel()
            kept[_digest(tensor)] = tensor.numel()
    return total, sum(kept.values())


def _digest(tensor: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), hashlib.blake2b(tensor.contiguous().numpy().tobytes()).digest()


def stored_bytes(task_groups: Iterable[TaskGroup]) -> int:
    """Return the bytes of the groups' weights in fp32, each weight counted once."""
    tensors = {p.data_ptr(): p.nbytes for task_group in task_groups for p in task_group.model.parameters()}
    return sum(tensors.values())


def reference_bytes(variants: Iterable[Iterable[TaskGroup]], plan: Plan) -> int:
    """Return the bytes of the temporary reference graph; 0 if the graph itself is in fp32.

    The variants are verified one after another, so that only the largest counts.
    """
    return max(map(stored_bytes, variants)) if plan.rounds else 0


def minimum_bytes(variants: Sequence[Sequence[TaskGroup]], plan: Plan) -> int:
    """Return a lower bound of the bytes that an export writes.

    The weights count once for all variants; the temporary fp32 reference graph is added.
    """
    written = stored_bytes(task_group for task_groups in variants for task_group in task_groups)
    return written // _VALUES_PER_FP32.get(plan.precision, 1) + reference_bytes(variants, plan)
