"""Reading of PEFT folders: the configuration, with unsupported settings refused, and the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from exporter.checkpoints.files import read_json, read_weights
from exporter.checkpoints.peft_initializations import REPEATABLE
from exporter.errors import ExportError
from exporter.models.peft_types import check_type
from runtime.text.pattern_cost import HIGHEST, UnknownPatternError, cost

_CONFIG = "adapter_config.json"
# Settings without effect once the weights are loaded, some of which name code or files.
_NEUTRAL = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"),
    *("init_ia3_weights", "init_lora_weights", "d_initial", "lora_dropout", "vera_dropout", "qalora_group_size", "bias"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core"),
    *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
)
# Settings that name code to import.
_CODE = ("megatron_config",)
# Settings that are, contain, or have as their keys regular expressions for names of modules, of at most so many characters.
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
_NAME_LENGTH = 128
# Task types whose classes in PEFT add heads to modules_to_save, and the names of these.
_WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
HEADS = frozenset(("classifier", "score", "qa_outputs"))
# Values of init_lora_weights that do not change the base model's weights.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


def _check_patterns(name: str, stored: Mapping[str, Any]) -> None:
    """Refuse regular expressions that may take exponential time for a name of a module, which PEFT compares with them."""
    for key in _PATTERNS:
        value = stored.get(key)
        for pattern in [value] if isinstance(value, str) else value if isinstance(value, list | dict) else []:
            try:
                reason = "may take exponential time" if cost(str(pattern), _NAME_LENGTH).first >= HIGHEST else ""
            except UnknownPatternError as error:
                reason = str(error)
            if reason:
                raise ExportError(
                    f"the adapter {name!r} has a regular expression in {key} that {reason}: {str(pattern)[:_NAME_LENGTH]!r}; "
                    "list the names of the modules instead"
                )


def read_config(name: str, folder: Path) -> Any:
    """Read the `peft.PeftConfig` of an adapter, without settings that would change the base model's weights.

    Args:
        name: the adapter name, for messages.
        folder: the adapter's folder.

    Raises:
        ExportError: the file is missing or damaged, or contains an unsupported setting.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    stored = read_json(folder / _CONFIG)
    known = stored.get("peft_type")
    if known not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ExportError(
            f"the adapter {name!r} has the PEFT type {known}, which the installed PEFT does not know: update PEFT"
        )
    check_type(name, known)
    _check_patterns(name, stored)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[stored.pop("peft_type")]
    fields = {field.name for field in dataclasses.fields(kind)} - set(_CODE)
    # Settings of a newer PEFT that are not used are None, False or empty.
    unsupported = [key for key in sorted(stored) if stored[key] and key not in fields and key not in _NEUTRAL]
    if unsupported:
        first = unsupported[0]
        if first in _CODE:
            raise ExportError(f"the adapter {name!r} sets {first} to {stored[first]!r}: code that it names is never run")
        raise ExportError(
            f"the adapter {name!r} sets {first} to {stored[first]!r}, which is not supported: the installed PEFT does not know "
            "it; update PEFT, or remove the entry if the adapter does not use it"
        )
    start = stored.get("init_lora_weights")
    if start not in (*_PLAIN_STARTS, *REPEATABLE):
        raise ExportError(
            f"the adapter {name!r} was trained on base weights that init_lora_weights={start!r} changed, which cannot be "
            "computed again: save it with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    try:
        honoured = {key: value for key, value in stored.items() if key in fields and key not in _NEUTRAL}
        if isinstance(honoured.get("init_weights"), bool):  # a name selects a form of the adapter (MiSS)
            del honoured["init_weights"]
        return kind(**honoured, inference_mode=True)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{str(folder / _CONFIG)!r} is not a valid PEFT configuration: {error}") from error


def start_of(folder: Path) -> str | None:
    """Return the initialization that changed the base model's weights, one of `REPEATABLE`; None for any other."""
    start = read_json(folder / _CONFIG).get("init_lora_weights")
    return start if start in REPEATABLE else None


def is_headless(name: str, folder: Path) -> bool:
    """Return whether transformers injected and saved an adapter: it lists no modules, and its file has no head.

    For its task type, the classes of PEFT would require one.

    Args:
        name: the adapter name, for messages.
        folder: the adapter's folder.
    """
    stored = read_json(folder / _CONFIG)
    if stored.get("task_type") not in _WITH_HEADS or stored.get("modules_to_save", ()) is not None:
        return False
    return not any(HEADS & set(key.split(".")) and "lora_" not in key for key in read_adapter_weights(name, folder))


def changes_biases(folder: Path) -> bool:
    """Return whether an adapter changes biases of the base model (bias="all", "lora_only", …), which its file contains."""
    return bool(read_json(folder / _CONFIG).get("bias", "none") != "none")


def read_adapter_weights(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights by their saved names, which do not contain the adapter's name.

    Args:
        name: the adapter name, for messages.
        folder: the adapter's folder.

    Raises:
        ExportError: the file is missing or damaged.
    """
    return read_weights(folder, "adapter_model.safetensors", "adapter_model.bin", f"the adapter {name!r}")
