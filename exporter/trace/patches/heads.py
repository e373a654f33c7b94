"""Patches for prediction heads that torch.export cannot trace, or that require a certain number of rows.

The rules of architectures.py apply: a copy of the user's model is changed in place, its results are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from exporter.models.module_surgery import bind
from exporter.models.peft_modules import base_of

__all__ = ["HEAD_PATCHES", "decoded", "last_eos", "row_at"]

# By name, because importing a transformers class imports its whole architecture.
_EOS_CLASSIFIERS = frozenset(f"{name}ForSequenceClassification" for name in ("Bart", "MBart", "PLBart", "T5", "MT5"))


def row_at(hidden: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return hidden[row, position[row]] for every row: [batch, sequence, features], int64 [batch] -> [batch, features]."""
    index = position[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def last_eos(hidden: torch.Tensor, is_eos: torch.Tensor) -> torch.Tensor:
    """Return the state at the last true position of each row: [batch, sequence, features] -> [batch, features]."""
    positions = torch.arange(is_eos.shape[1], device=is_eos.device)
    return row_at(hidden, torch.where(is_eos, positions, 0).amax(1))


def patch_eos_pooling(model: nn.Module) -> None:
    """Select the state at the last end-of-sequence token without a boolean mask (BART, mBART, PLBART, T5, mT5).

    The library counts these tokens with `torch.unique` and selects their states with a boolean mask of unknown size. `row_at`
    with the last position selects the same states. If rows differ in their number of such tokens, PyTorch raises ValueError;
    the graph uses the last one of each row, or the first token of a row without any.
    """
    base = base_of(model)  # the wrapper of PEFT has another name
    if type(base).__name__ in _EOS_CLASSIFIERS:
        bind(base, _eos_classifier_forward)


def _eos_classifier_forward(model: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
    # PEFT passes all arguments, also those without a value.
    kwargs = {name: value for name, value in inputs.items() if value is not None and name not in ("labels", "return_dict")}
    pooled = last_eos(decoded(model, input_ids, kwargs)[0], input_ids.eq(model.config.eos_token_id))
    return SequenceClassifierOutput(logits=model.classification_head(pooled))


def decoded(model: Any, input_ids: torch.Tensor, kwargs: dict[str, Any]) -> Any:
    """Return the base model's outputs for the decoder inputs that the model makes from the text."""
    if hasattr(model, "_shift_right"):  # T5 and mT5: their base model does not create decoder inputs
        kwargs = {"decoder_input_ids": model._shift_right(input_ids), **kwargs}
    return model.base_model(input_ids, return_dict=True, **kwargs)


def patch_multiple_choice(model: nn.Module) -> None:
    """Compute the scores of a multiple choice model as [rows, 1], where each row is one choice.

    The model reads inputs of [questions, choices, sequence]. The scores and their order are the same.
    """
    base = base_of(model)  # the wrapper of PEFT has another name
    if type(base).__name__.endswith("ForMultipleChoice"):
        bind(base, _one_choice_forward)


def _one_choice_forward(model: Any, **inputs: Any) -> Any:
    choices = {name: value.unsqueeze(1) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    return type(model).forward(model, **choices)


HEAD_PATCHES: tuple[Callable[[nn.Module], None], ...] = (patch_eos_pooling, patch_multiple_choice)
