"""Neutral modes and settings: those of the calling code and of a configuration would change what a model computes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["neutral_state", "use_neutral_settings"]

_DEVICES = ("cpu", "cuda", "mps", "xpu")
# Setting of a configuration of transformers -> its value in an export.
_SETTINGS = {"return_dict": True, "torchscript": False, "chunk_size_feed_forward": 0}


@contextlib.contextmanager
def neutral_state() -> Iterator[None]:
    """Suspend the modes of the calling code; they are as before afterwards.

    1. Contexts of the adapters library, such as AdapterSetup: they overrule the active adapters of every model of the thread.
    2. torch.autocast, torch.inference_mode, a default device or type, and reduced precision of matrix products.
    3. Deterministic algorithms, which add operators to a trace.
    """
    precision, kind = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, precision)
        stack.callback(torch.set_default_dtype, kind)
        stack.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        stack.enter_context(_without_adapter_contexts())
        stack.enter_context(torch.inference_mode(False))
        for device in _DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def _without_adapter_contexts() -> Iterator[None]:
    # The stacks of the thread; the module is absent if the process does not use the adapters library.
    module: Any = sys.modules.get("adapters.context")
    stacks = [] if module is None else [module.AdapterSetup.get_contexts(), module.ForwardContext.get_contexts()]
    saved = [list(stack) for stack in stacks]
    for stack in stacks:
        stack.clear()
    try:
        yield
    finally:
        for stack, contexts in zip(stacks, saved, strict=True):
            stack[:] = contexts


def use_neutral_settings(model: nn.Module) -> None:
    """Let a model of ours return named fields at every length, whatever its configuration says; its numbers stay the same.

    1. `return_dict: false` and `torchscript: true` let it return tuples.
    2. `chunk_size_feed_forward` computes parts of a text one after another, and fails where its length is no multiple.
    """
    module: Any
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        for key, neutral in _SETTINGS.items():
            if getattr(config, key, neutral) != neutral:
                setattr(config, key, neutral)
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0
