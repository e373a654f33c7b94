"""Patches for architectures that torch.export cannot trace with dynamic batch and sequence axes.

Each patch changes a copy of the user's model in place and has no effect without a matching module. Patched modules compute the
same results up to rounding. Parameters are read, never written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig

from exporter.models.module_surgery import bind
from exporter.trace.patches.alibi import patch_alibi
from exporter.trace.patches.heads import HEAD_PATCHES
from exporter.trace.patches.rotary import patch_rotary

__all__ = ["ARCHITECTURE_PATCHES", "before_padding"]

# By name, because importing a transformers class imports its whole architecture.
_DECODERS = frozenset({"BartDecoder", "MBartDecoder", "PLBartDecoder"})
# The names of the output projection within the attention of decoders, and of encoders in transformers 5.
_PROJECTIONS = frozenset({"o_proj", "c_proj", "out_proj", "dense", "out_lin", "Wo"})
# Query, key and value: an attention with these layers only is projected by its parent module.
_INPUT_PROJECTIONS = 3
_LANGUAGE_LAST = frozenset({"MBartModel", "PLBartModel"})


def patch_cache(model: nn.Module) -> None:
    """Disable the key/value cache of decoders.

    An exported graph has no next decoding step. The cache would leave a Concat with an empty tensor per layer.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            config.use_cache = False


def patch_experts(model: nn.Module) -> None:
    """Compute the experts of a mixture with one batched product, for which ONNX has operators.

    By default transformers 5 uses a grouped product, whose groups have as many rows as tokens chose an expert.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig) and getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation = "batched_mm"


def before_padding(input_ids: torch.Tensor, padding: int) -> torch.Tensor:
    """Return the number of ids that differ from the padding id, minus one: [batch, sequence] -> [batch]."""
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
        last = before_padding(input_ids, base.config.pad_token_id)
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
    """Set attention rows without visible tokens to zero, for models with sdpa and a boolean mask.

    For these rows PyTorch returns zeros, but the operators that torch.onnx writes for sdpa return a mean over all tokens. In
    decoders, the rows are padding on the left, but token heads compute logits for them, and gates average over them. In
    encoders, they are texts without any token; transformers 4.57 has a mask of finite numbers there, for which both are means.
    So has transformers 5 where it adds biases of positions to the mask, as in LayoutLMv3 and MPNet.
    """
    for attention in model.modules():
        config, is_causal = getattr(attention, "config", None), getattr(attention, "is_causal", None)
        # The decoder of an encoder-decoder gets its tokens from the model, without padding.
        in_decoder = is_causal and getattr(config, "is_encoder_decoder", False)
        if config is not None and isinstance(is_causal, bool) and not in_decoder:
            projections = [child for name, child in attention.named_children() if name in _PROJECTIONS]
            if getattr(config, "_attn_implementation", None) != "sdpa":
                continue
            rows = _VisibleRows()
            if projections:
                attention.register_forward_pre_hook(rows.remember, with_kwargs=True)
                projections[0].register_forward_pre_hook(rows.clear)
                continue
            if len([child for child in attention.children() if hasattr(child, "weight")]) == _INPUT_PROJECTIONS:
                # BERT and its relatives project in the parent module.
                attention.register_forward_pre_hook(rows.remember, with_kwargs=True)
                attention.register_forward_hook(rows.clear_result)
            else:  # such as JetMoE, which projects with its experts
                bind(attention, _with_cleared_rows)


def _with_cleared_rows(attention: Any, *args: Any, **kwargs: Any) -> Any:
    with _ClearedRows():
        return type(attention).forward(attention, *args, **kwargs)


class _ClearedRows(TorchFunctionMode):
    """Sets rows without visible tokens to zero in the results of sdpa, wherever they are projected."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        if func is scaled_dot_product_attention and mask is not None and mask.dtype == torch.bool:
            result = result * mask.any(-1, keepdim=True).to(result.dtype)
        return result


class _VisibleRows:
    """The rows of one attention mask with visible tokens, [batch, length, 1], kept from its input to its output projection."""

    def __init__(self) -> None:
        self.visible: torch.Tensor | None = None

    def remember(self, _attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Store the rows of the mask; a forward pre-hook of the attention."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and kwargs.get("position_bias") is None:
            self.visible = mask.any(-1)[:, 0, :, None]

    def clear(self, _projection: nn.Module, args: Any) -> Any:
        """Set rows without visible tokens to zero; a forward pre-hook of the output projection."""
        visible, self.visible = self.visible, None
        return args if visible is None else (args[0] * visible.to(args[0].dtype), *args[1:])

    def clear_result(self, _attention: nn.Module, _args: Any, result: Any) -> Any:
        """Set rows without visible tokens to zero; a forward hook of an attention without output projection."""
        return self.clear(_attention, (result,))[0] if isinstance(result, torch.Tensor) else self.clear(_attention, result)


# The order does not matter: no two patches change the same method of the same module.
ARCHITECTURE_PATCHES: tuple[Callable[[nn.Module], None], ...] = (
    patch_alibi,
    patch_cache,
    patch_experts,
    patch_language_token,
    patch_decoder_mask,
    patch_empty_rows,
    patch_rotary,
    *HEAD_PATCHES,
)
