"""Patches for architectures that torch.export cannot trace with dynamic batch and sequence axes.

Each patch changes a copy of the user's model in place and has no effect without a matching module. Patched modules compute the
same results up to rounding. Parameters are read, never written.
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

# By name, because importing a class of transformers imports its whole architecture.
_LAST_TOKEN = frozenset({"GPT2AdapterModel", "GPTJAdapterModel", "LlamaAdapterModel", "MistralAdapterModel"})
_DECODERS = frozenset({"BartDecoder", "MBartDecoder", "PLBartDecoder"})
# The names of the output projection of attention in decoders.
_PROJECTIONS = frozenset({"o_proj", "c_proj", "out_proj", "dense"})
_LANGUAGE_LAST = frozenset({"MBartModel", "PLBartModel"})


def patch_cache(model: nn.Module) -> None:
    """Disable the key/value cache of decoders.

    An exported graph has no next decoding step. The cache would leave a Concat with an empty tensor per layer.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            config.use_cache = False


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
    last = hidden[:, -1] if padding is None else row_at(hidden, _before_padding(input_ids, padding))
    return model.forward_head(
        outputs, head_name=head, cls_output=last, attention_mask=kwargs.get("attention_mask"), return_dict=True
    )


def _before_padding(input_ids: torch.Tensor, padding: int) -> torch.Tensor:
    """The number of ids that differ from the padding id, minus one: [batch, sequence] -> [batch]."""
    last = input_ids.ne(padding).sum(-1) - 1
    # For a row of only padding this is -1, the last column in the library; gather does not accept negative indices.
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    return torch.where(last.lt(0), columns[-1], last)


def patch_language_token(model: nn.Module) -> None:
    """Create the decoder inputs of mBART and PLBART without `squeeze()`, which makes the batch static.

    The library starts the decoder inputs with each row's last token and squeezes all axes, which treats a batch of one
    differently. The patch removes only the axis of length one; the tokens are the same.
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
    """Pass a mask of ones to the decoders of BART, mBART and PLBART with eager attention.

    Without a mask they create one of ones, except under torch.export, where their attention then fails with a length that is
    too large by one.
    """
    for decoder in model.modules():
        if type(decoder).__name__ in _DECODERS and getattr(decoder.config, "_attn_implementation", None) == "eager":
            decoder.register_forward_pre_hook(_with_ones, with_kwargs=True)


def _with_ones(_decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs.get("attention_mask") is None and kwargs.get("input_ids") is not None:
        kwargs = {**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])}
    return args, kwargs


def patch_empty_rows(model: nn.Module) -> None:
    """Set attention rows without visible tokens to zero, for decoders with sdpa and padding on the left.

    For these rows PyTorch returns zeros, but the operators that torch.onnx writes for sdpa return a mean over all tokens. The
    rows are padding, but token heads compute logits for them, and gates average over them.
    """
    for attention in model.modules():
        config = getattr(attention, "config", None)
        if getattr(attention, "is_causal", False) is True and not getattr(config, "is_encoder_decoder", True):
            projections = [child for name, child in attention.named_children() if name in _PROJECTIONS]
            if projections and getattr(config, "_attn_implementation", None) == "sdpa":
                rows = _VisibleRows()
                attention.register_forward_pre_hook(rows.remember, with_kwargs=True)
                projections[0].register_forward_pre_hook(rows.clear)


def refuse_causal_prefix(model: nn.Module) -> None:
    """Refuse prefix tuning in a decoder with sdpa, whose results depend on the padding of other rows.

    Without padding, token i attends to the first i positions of prefix and text together. With padding, the library inverts the
    prefix part of the mask as if it were additive, and hides the prefix. Both cases are correct with eager attention.

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
                "attention, for which the library's results depend on the padding of other rows: load the model with "
                'attn_implementation="eager"'
            )


class _VisibleRows:
    """The rows of one attention mask with visible tokens, [batch, length, 1], kept from its input to its output projection."""

    def __init__(self) -> None:
        self.visible: torch.Tensor | None = None

    def remember(self, _attention: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        """Store the rows of the mask; a forward pre-hook of the attention."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            self.visible = mask.any(-1)[:, 0, :, None]

    def clear(self, _projection: nn.Module, args: Any) -> Any:
        """Set rows without visible tokens to zero; a forward pre-hook of the output projection."""
        visible, self.visible = self.visible, None
        return args if visible is None else (args[0] * visible.to(args[0].dtype), *args[1:])


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


# The order does not matter: no two patches change the same method of the same module.
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
