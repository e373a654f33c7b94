"""PEFT adapters that learn prompts: embeddings before those of the text, or keys and values of the attention."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from exporter.errors import ExportError
from exporter.models.peft_modules import base_of, encoder_layers_in, is_layer, layer_of
from exporter.models.peft_types import PREFIXES, PROMPTS, type_of

__all__ = [
    "TOKENWISE",
    "check_prompt",
    "drop_prefixes",
    "has_prefix",
    "has_prompt",
    "prompt_positions",
    "prompt_tokens",
]

# Heads with logits for every position of the model.
TOKENWISE = ("tagging", "question_answering", "masked_lm", "causal_lm", "hidden_states")


def has_prompt(model: Any, name: str) -> bool:
    """Return whether an adapter is a prompt or a prefix."""
    return type_of(model.peft_config[name]) in PROMPTS


def has_prefix(model: Any, name: str) -> bool:
    """Return whether an adapter consists of keys and values of the attention."""
    return type_of(model.peft_config[name]) in PREFIXES


def check_prompt(model: Any, name: str) -> None:
    """Check that PEFT runs an adapter that is a prompt or a prefix.

    Raises:
        ExportError: the class of PEFT does not read prompts, or cannot put this one before the text.
    """
    from peft import PeftModel

    if not has_prompt(model, name):
        return
    what = f"the adapter {name!r} with the PEFT type {type_of(model.peft_config[name])}"
    if getattr(type(model), "forward", None) is PeftModel.forward:
        raise ExportError(
            f"{what} has no task_type, and PEFT ignores a prompt without one: write the one that it was trained with, such as "
            "SEQ_CLS, into its adapter_config.json"
        )
    if (found := type(base_of(model)).__name__).endswith("ForMultipleChoice"):
        raise ExportError(
            f"{what} does not run with {found}: PEFT puts a prompt before one text, and a multiple-choice question has "
            "several; train an adapter of another type, such as LoRA"
        )
    if has_prefix(model, name) and not _takes_keys(model):
        raise ExportError(
            f"{what} does not run with {found} in the installed transformers: PEFT gives a prefix to the model as "
            "past_key_values, which its forward() does not have; train an adapter of another type, such as LoRA"
        )
    embeddings = base_of(model).get_input_embeddings()
    size, width = model.peft_config[name].token_dim, getattr(embeddings, "embedding_dim", None)
    if not has_prefix(model, name) and width not in (None, size):
        raise ExportError(
            f"{what} has prompt vectors of width {size}, but the embeddings of {found} have width {width}, so PEFT cannot run "
            f"it: train it with token_dim={width}"
        )


def _takes_keys(model: Any) -> bool:
    """Whether the model or its trunk has the argument that PEFT's classes for task types require for a prefix."""
    if not hasattr(model, "_prefix_tuning_forward"):
        return True
    whole = model.base_model
    parts = (whole, whole.get_submodule(model.transformer_backbone_name))
    return any("past_key_values" in inspect.signature(part.forward).parameters for part in parts)


def prompt_tokens(model: Any) -> int:
    """Return how many positions of the model the longest prompt of its adapters takes from a text; 0 without prompts."""
    models = getattr(model, "parts", [model])  # of a model of several
    configs = [config for each in models for config in (getattr(each, "peft_config", None) or {}).values()]
    return max((config.num_virtual_tokens for config in configs if type_of(config) in PROMPTS), default=0)


def prompt_positions(model: Any, kind: str) -> int:
    """Return how many positions of a prompt come before those of the text in the outputs of the active adapter.

    The graph's outputs are without them: they have one position for each token of the text, as those of other tasks.

    Args:
        model: a model of any library.
        kind: the head type.
    """
    config = getattr(model, "active_peft_config", None) if hasattr(model, "peft_config") else None
    if config is None or kind not in TOKENWISE or type_of(config) not in PROMPTS or type_of(config) in PREFIXES:
        return 0
    return int(config.num_virtual_tokens)


def drop_prefixes(model: Any, drop: int) -> None:
    """Leave the prefix out of the lowest layers of a model, in place.

    PEFT gives the keys and values of all layers, and a mask that covers them, to the model, which hands them to every layer.
    The dropped layers get neither. Positions are counted as before.
    """
    encoder = encoder_layers_in(model)
    for path, module in base_of(model).named_modules():
        layer = layer_of(path, encoder)
        if is_layer(path) and layer is not None and layer < drop:
            module.register_forward_pre_hook(
                partial(_without_prefix, model.active_peft_config.num_virtual_tokens), with_kwargs=True
            )


def _without_prefix(tokens: int, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    bound = inspect.signature(layer.forward).bind(*args, **kwargs)
    given = bound.arguments
    for key in ("past_key_values", "past_key_value", "layer_past"):
        if key in given:
            given[key] = None
    mask = given.get("attention_mask")
    if mask is not None:
        given["attention_mask"] = mask[..., tokens:]
    return bound.args, bound.kwargs
