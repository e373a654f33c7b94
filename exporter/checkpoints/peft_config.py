"""What PEFT writes into a folder: a configuration, read or refused, and weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from exporter.checkpoints.sources import read_json, read_weights
from exporter.errors import ExportError
from exporter.models.peft_structure import SUPPORTED, TYPES

_CONFIG = "adapter_config.json"
# Settings that change nothing once the weights are loaded.
_NEUTRAL = (
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "megatron_core",
        "peft_version",
        "revision",
        "runtime_config",
    ),
    *(
        "init_ia3_weights",
        "init_lora_weights",
        "init_weights",
        "d_initial",
        "lora_dropout",
        "vera_dropout",
        "qalora_group_size",
    ),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "bias"),
)
_HONOURED = (
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "feedforward_modules", "modules_to_save"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"),
    *("projection_prng_key", "save_projection", "task_type"),
)
# Initializations that leave the base model's weights as they are.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def is_peft_folder(folder: Path) -> bool:
    """Whether PEFT wrote the adapter in a folder; the adapters library's files are called alike."""
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "peft_type" in config


def read_config(name: str, folder: Path) -> Any:
    """The `peft.PeftConfig` of the adapter, which will be called `name`, without what would touch the base model's weights.

    Raises:
        ExportError: there is none, or one with settings that are not supported.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    stored = read_json(folder / _CONFIG)
    if stored.get("peft_type") not in TYPES:
        raise ExportError(
            f"the adapter {name!r} is of PEFT's type {stored.get('peft_type')}, which is not supported: expected {SUPPORTED}"
        )
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[stored.pop("peft_type")]
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    strange = [key for key in sorted(stored) if key not in _NEUTRAL + _HONOURED and stored[key] != defaults.get(key)]
    # What a newer PEFT does not use either.
    strange = [key for key in strange if stored[key]]
    if strange:
        raise ExportError(f"the adapter {name!r} sets {strange[0]} to {stored[strange[0]]!r}, which is not supported")
    start = stored.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise ExportError(
            f"the adapter {name!r} was trained on changed base weights (init_lora_weights={start!r}): save it again with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    if stored.get("bias", "none") != "none":
        raise ExportError(
            f"the adapter {name!r} changes biases of the base model (bias={stored['bias']!r}), which all adapters share: "
            "expected bias='none'"
        )
    try:
        return kind(**{key: value for key, value in stored.items() if key in _HONOURED}, inference_mode=True)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{str(folder / _CONFIG)!r} is no valid configuration of PEFT: {error}") from error


def read_adapter_weights(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """The weights by the names that PEFT saves them under, without the adapter's name.

    Raises:
        ExportError: they are missing or damaged.
    """
    return read_weights(folder, "adapter_model.safetensors", "adapter_model.bin", f"the adapter {name!r}")
