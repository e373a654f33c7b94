"""Modules of PEFT inside a model: tuner layers, wrappers, and the layers that they lie in.

PEFT replaces a targeted module by a tuner layer, which holds the module as `base_layer`, and a module to save, such as the
head, by a wrapper, which holds it as `original_module`. Both keep an adapter's weights in dictionaries keyed by its name.
PEFT is imported where it is used: the exporter works without it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

# What transformers calls its lists of layers; the leftmost one in a name counts.
_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h|block|blocks|albert_layer_groups)\.(\d+)(?=\.|$)")


def is_peft(model: Any) -> bool:
    """Whether `model` holds adapters of PEFT. Does not import PEFT: where nobody did, there is no such model."""
    if "peft" not in sys.modules or not isinstance(model, nn.Module):
        return False
    from peft import PeftMixedModel, PeftModel

    return isinstance(model, PeftModel | PeftMixedModel) or any(True for _ in adapted(model))


def adapted(model: nn.Module, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """The tuner layers and wrappers by their dotted names: those with the adapter `name`, or all."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    # With duplicates: a module that is registered twice must be replaced twice.
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        if name is None or name in module._get_available_adapters():
            yield path, module


def base_of(model: Any) -> Any:
    """The transformers model inside, with the tuner layers in it; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layer_of(module_name: str) -> int | None:
    """The number of the transformer layer in which a module lies; None outside of the layers. In ALBERT, its layer group."""
    found = _LAYER.search(module_name)
    return None if found is None else int(found.group(1))
