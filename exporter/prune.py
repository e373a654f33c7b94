"""Applies a plan to the module tree: what is dropped is really removed, from a copy."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from adapters.methods.adapter_layer_base import AdapterLayerBase

from .errors import ExportError
from .plan import Plan
from .quiet import quiet


def _copy(model: Any) -> Any:
    """A copy of the module tree in evaluation mode, fp32, on the CPU.

    It shares the weights with the original where these are fp32 on the CPU already: a copy then costs no memory. Module.to
    would write converted weights into shared parameters, so otherwise everything is copied.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    shareable = all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors)
    if any(t.device.type == "meta" for t in tensors):
        raise ExportError("the model's weights are not loaded (they are on the meta device): load it with its weights")
    try:
        clone = copy.deepcopy(model, {id(t): t for t in tensors} if shareable else {})
    except (TypeError, RuntimeError) as error:
        raise ExportError(
            f"the model cannot be copied ({error}): remove its hooks and re-parametrizations first, with "
            "torch.nn.utils.prune.remove for instance"
        ) from error
    if not shareable:
        clone.to("cpu", torch.float32)
    return clone.eval()


def prune(model: Any, plan: Plan) -> Any:
    """A copy of `model` that holds the plan's tasks alone, without adapters in the dropped layers.

    As with the library's `skip_layers`, invertible adapters at the embeddings are no part of a layer and stay.
    """
    pruned = _copy(model)
    pruned.adapters_config.active_setup = None
    kept = {task.name for task in plan.tasks}
    for name in [name for name in pruned.adapters_config.adapters if name not in kept]:
        pruned.delete_adapter(name)
    for name in [name for name in pruned.heads if name not in kept]:
        pruned.delete_head(name)
    for module in pruned.modules():
        if isinstance(module, AdapterLayerBase) and 0 <= module.layer_idx < plan.drop:
            for name in kept:
                module.delete_adapter(name)
    return pruned


def activate(model: Any, task: str) -> None:
    """Makes `model` a single-task model of `task`: its adapter and the head of its name."""
    with quiet():  # the library warns of the moment in which no adapter is active
        model.set_active_adapters(task)
    model.active_head = task


def layers_without_adapter(model: Any, plan: Plan, task: str) -> tuple[int, ...]:
    """The layers of a pruned model in which `task` has no adapter: dropped, or left out by the adapter's own configuration."""
    used = {
        module.layer_idx
        for module in model.modules()
        if isinstance(module, AdapterLayerBase) and task in module.adapter_modules
    }
    return tuple(layer for layer in range(plan.layers) if layer not in used)


def shared_part(model: Any, plan: Plan) -> str:
    """What of a pruned model no task weight reaches, in words."""
    if any(len(module.invertible_adapters) > 0 for module in model.modules() if hasattr(module, "invertible_adapters")):
        return "the embeddings (an invertible adapter follows them)"
    first = min(
        next((n for n in range(plan.layers) if n not in layers_without_adapter(model, plan, task.name)), plan.layers)
        for task in plan.tasks
    )
    if first == plan.layers:
        return "the whole trunk: no layer has an adapter"
    before = f"layers 0 to {first - 1}" if first > 1 else "layer 0" if first == 1 else ""
    return ", ".join(part for part in ("embeddings", before, f"layer {first} up to its first adapter") if part)
