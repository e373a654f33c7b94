"""Patches for the architectures of the adapters library; the rules of methods.py apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from adapters.context import ForwardContext
from adapters.methods.prefix_tuning import PrefixTuningLayer
from torch import nn

from exporter.errors import ExportError
from exporter.models.module_surgery import bind
from exporter.trace.patches.architectures import before_padding
from exporter.trace.patches.heads import row_at

__all__ = ["ARCHITECTURE_PATCHES"]

_LAST_TOKEN = frozenset({"GPT2AdapterModel", "GPTJAdapterModel", "LlamaAdapterModel", "MistralAdapterModel"})


def patch_last_token(model: nn.Module) -> None:
    """Select the last token without `range(batch)`, which makes the batch static.

    For GPT-2, GPT-J, LLaMA and Mistral with named heads.

    `row_at` selects the same rows. As in the library, the position is the number of ids that differ from the padding id, minus
    one, which is only correct for padding on the right. Without a padding id it is the last column, even if that is padding.
    """
    if type(model).__name__ in _LAST_TOKEN:
        bind(model, ForwardContext.wrap(_last_token_forward))


def _last_token_forward(model: Any, input_ids: torch.Tensor, head: str | None = None, **kwargs: Any) -> Any:
    outputs = model.base_model(input_ids, return_dict=True, **kwargs)
    hidden, padding = outputs[0], model.config.pad_token_id
    last = hidden[:, -1] if padding is None else row_at(hidden, before_padding(input_ids, padding))
    return model.forward_head(
        outputs, head_name=head, cls_output=last, attention_mask=kwargs.get("attention_mask"), return_dict=True
    )


def refuse_causal_prefix(model: nn.Module) -> None:
    """Refuse prefix tuning in a decoder with sdpa, whose results depend on the padding of other rows.

    Without padding, token i attends to the first i positions of prefix and text together. With padding, the library inverts the
    prefix part of the mask as if it were additive, and hides the prefix. Both cases are correct with eager attention.

    Raises:
        ExportError: the model has such a prefix.
    """
    for attention in model.modules():
        prefix = getattr(attention, "prefix_tuning", None)
        # In BERT and its relatives, attention has no configuration, and is_decoder makes it causal
        sdpa = getattr(getattr(attention, "config", model.config), "_attn_implementation", None) == "sdpa"
        is_causal = getattr(attention, "is_causal", getattr(attention, "is_decoder", False)) is True
        if sdpa and is_causal and isinstance(prefix, PrefixTuningLayer) and prefix.prefixes:
            raise ExportError(
                f"the adapter {next(iter(prefix.prefixes))!r} has a prefix in the decoder of {type(model).__name__} with sdpa "
                "attention, for which the library's results depend on the padding of other rows: load the model with "
                'attn_implementation="eager"'
            )


def patch_distilbert_prefix(model: nn.Module) -> None:
    """Reproduce the mask of DistilBERT with sdpa, prefix or prompt tuning, for batches with and without padding.

    The library sets the mask to 1 at prefix and prompt tokens, which raises their scores by one; without padding in the batch
    it uses no mask. A trace always contains the mask, so that the graph would be wrong for batches without padding. The patch
    multiplies the 1 by whether the batch contains padding, which gives the library's results in both cases.
    """
    for attention in model.modules():
        if type(attention).__name__ == "DistilBertSdpaAttentionWithAdapters":
            bind(attention.get_submodule("prefix_tuning"), _distilbert_prefix_forward)


def _distilbert_prefix_forward(
    layer: Any, key: torch.Tensor, value: torch.Tensor, x: torch.Tensor, mask: torch.Tensor | None, invert_mask: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] = PrefixTuningLayer.forward(
        layer, key, value, x, mask, invert_mask
    )
    key, value, longer = states
    prompted = getattr(ForwardContext.get_context(), "prompt_tokens_length", None) is not None
    if mask is None or longer is None or not (prompted or longer.shape[-1] != mask.shape[-1]):
        return states
    # Negative at padding, positive at prefix and prompt tokens, otherwise zero.
    padded = longer.amin((0, 1, 2, 3)).lt(0).to(longer.dtype)
    return key, value, longer.clamp(max=0) + longer.clamp(min=0) * padded


ARCHITECTURE_PATCHES: tuple[Callable[[nn.Module], None], ...] = (
    refuse_causal_prefix,
    patch_last_token,
    patch_distilbert_prefix,
)
