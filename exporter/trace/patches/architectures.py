"""Architectures that torch.export cannot trace with a free batch and sequence, and how they are made traceable.

Every cure changes a copy of the user's model in place and does nothing where it finds nothing. Cured modules compute what
they computed before, to rounding; parameters are read, never written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from adapters.context import ForwardContext
from adapters.methods.prefix_tuning import PrefixTuningLayer
from torch import nn
from transformers import PretrainedConfig

from exporter.errors import ExportError
from exporter.models.module_surgery import bind
from exporter.trace.patches.heads import HEAD_PATCHES, row_at

__all__ = ["ARCHITECTURE_PATCHES"]

# By name, because importing a class of transformers costs its whole architecture.
_LAST_TOKEN = frozenset({"GPT2AdapterModel", "GPTJAdapterModel", "LlamaAdapterModel", "MistralAdapterModel"})
_DECODERS = frozenset({"BartDecoder", "MBartDecoder", "PLBartDecoder"})
# What decoders call the layer behind attention.
_PROJECTIONS = frozenset({"o_proj", "c_proj", "out_proj", "dense"})
_LANGUAGE_LAST = frozenset({"MBartModel", "PLBartModel"})


def patch_cache(model: nn.Module) -> None:
    """Decoders fill a key/value cache for a next step that an export has not.

    It would stay in the graph as a Concat with nothing per layer. No logits read it.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            config.use_cache = False


def patch_last_token(model: nn.Module) -> None:
    """GPT-2, GPT-J, LLaMA and Mistral with named heads pick each row's last token by `range(batch)`, which fixes the batch.

    `row_at` picks the same rows. That token is the number of ids other than the padding id, less one: the library's own rule,
    which is right for padding on the right only. Without a padding id it is the last column, padding or not.
    """
    if type(model).__name__ in _LAST_TOKEN:
        bind(model, ForwardContext.wrap(_last_token_forward))


def _last_token_forward(model: Any, input_ids: torch.Tensor, head: str | None = None, **kwargs: Any) -> Any:
    outputs = model.base_model(input_ids, return_dict=True, **kwargs)
    hidden, padding = outputs[0], model.config.pad_token_id
    last = hidden[:, -1] if padding is None else row_at(hidden, _before_padding(input_ids, padding))
    return model.forward_head(
        outputs, head_name=head, cls_output=last, attention_mask=kwargs.get("attention_mask"), return_dict=True
    )


def _before_padding(input_ids: torch.Tensor, padding: int) -> torch.Tensor:
    """The number of ids other than the padding id, less one: [batch, sequence] to [batch]."""
    last = input_ids.ne(padding).sum(-1) - 1
    # In a row of padding alone it is -1, which the library reads as the last column; gather takes no negative index.
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    return torch.where(last.lt(0), columns[-1], last)


def patch_language_token(model: nn.Module) -> None:
    """mBART and PLBART without decoder inputs start them with each row's last token, through a `squeeze()` of every axis.

    That makes a batch of one special and fixes the batch. Here only the axis of length one goes; the tokens are the same.
    """
    for module in model.modules():
        if type(module).__name__ in _LANGUAGE_LAST:
            bind(module, _language_token_forward)


def _language_token_forward(base: Any, input_ids: Any, decoder_input_ids: Any = None, **kwargs: Any) -> Any:
    if decoder_input_ids is None:
        last = _before_padding(input_ids, base.config.pad_token_id)
        decoder_input_ids = torch.cat([input_ids.gather(1, last.unsqueeze(1)), input_ids[:, :-1]], 1)
    return type(base).forward(base, input_ids, decoder_input_ids=decoder_input_ids, **kwargs)


def patch_decoder_mask(model: nn.Module) -> None:
    """BART's decoders without a mask of their own make one of ones, save under torch.export.

    There their eager attention then counts one token too many and fails. Here they are given the ones.
    """
    for decoder in model.modules():
        if type(decoder).__name__ in _DECODERS and getattr(decoder.config, "_attn_implementation", None) == "eager":
            decoder.register_forward_pre_hook(_with_ones, with_kwargs=True)


def _with_ones(_decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs.get("attention_mask") is None and kwargs.get("input_ids") is not None:
        kwargs = {**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])}
    return args, kwargs


def patch_empty_rows(model: nn.Module) -> None:
    """Decoders with sdpa have rows of attention that see no token, where a text is padded on the left.

    There PyTorch gives zeros, and the operators that torch.onnx writes for sdpa give a mean over all tokens. These rows are
    padding themselves, yet token heads answer for them, and gates average over them. Here they are zeros again.
    """
    for attention in model.modules():
        config = getattr(attention, "config", None)
        if getattr(attention, "is_causal", False) is True and not getattr(config, "is_encoder_decoder", True):
            projections = [child for name, child in attention.named_children() if name in _PROJECTIONS]
            if projections and getattr(config, "_attn_implementation", None) == "sdpa":
                rows = _Rows()
                attention.register_forward_pre_hook(rows.remember, with_kwargs=True)
                projections[0].register_forward_pre_hook(rows.clear)


def refuse_causal_prefix(model: nn.Module) -> None:
    """Prefix tuning in a decoder with sdpa has no answer to reproduce.

    Without padding the library lets token i see the first i of prefix and text together. With padding it hides the prefix,
    whose part of the mask it inverts as if it were to be added. With eager attention both are right.

    Raises:
        ExportError: the model has such a prefix.
    """
    for attention in model.modules():
        prefix = getattr(attention, "prefix_tuning", None)
        sdpa = getattr(getattr(attention, "config", None), "_attn_implementation", None) == "sdpa"
        if (
            sdpa
            and getattr(attention, "is_causal", False) is True
            and isinstance(prefix, PrefixTuningLayer)
            and prefix.prefixes
        ):
            raise ExportError(
                f"the adapter {next(iter(prefix.prefixes))!r} has a prefix in the decoder of {type(model).__name__} with sdpa "
                "attention, where the library's own answers change with the padding of other rows: load the model with "
                'attn_implementation="eager"'
            )


class _Rows:
    """Which rows of one attention's mask see anything, [batch, length, 1]: known when it starts, needed before it projects."""

    def __init__(self) -> None:
        self.seeing: torch.Tensor | None = None

    def remember(self, _attention: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            self.seeing = mask.any(-1)[:, 0, :, None]

    def clear(self, _projection: nn.Module, args: Any) -> Any:
        seeing, self.seeing = self.seeing, None
        return args if seeing is None else (args[0] * seeing.to(args[0].dtype), *args[1:])


def patch_distilbert_prefix(model: nn.Module) -> None:
    """DistilBERT with sdpa raises the scores of prefix and prompt tokens by one, but only in a batch with padding.

    The library marks these tokens with 1, which an additive mask adds; without padding there is no mask. A trace sees the mask
    always, so that a graph would be wrong for batches without padding. Here the 1 is multiplied by whether there is any padding
    in the batch: the library's numbers in both cases.
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
    # Padding is negative and marks are positive; all else is zero.
    padded = longer.amin((0, 1, 2, 3)).lt(0).to(longer.dtype)
    return key, value, longer.clamp(max=0) + longer.clamp(min=0) * padded


# In any order: no two of them change the same method of the same module.
ARCHITECTURE_PATCHES: tuple[Callable[[nn.Module], None], ...] = (
    refuse_causal_prefix,
    patch_cache,
    patch_last_token,
    patch_language_token,
    patch_decoder_mask,
    patch_empty_rows,
    patch_distilbert_prefix,
    *HEAD_PATCHES,
)
