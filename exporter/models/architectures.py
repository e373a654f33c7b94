"""Architectures that no graph of dynamic length represents: refused by name before anything is traced."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from exporter.errors import ExportError
from exporter.models.peft_modules import base_of

__all__ = ["check_architecture"]

_ENCODER = "export a model of its encoder only"
_LONG = "train the adapters on a model with full attention, such as ModernBERT"
_RECURRENT = ("computes a state from position to position, in steps whose number depends on the length of the text", _LONG)
# Types of layers that do so: state spaces and linear attention, also next to attention in one layer.
_STATES = frozenset(("linear_attention", "mamba", "hybrid", "hybrid_sliding"))
# model_type -> what its code does, and what to do instead.
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("encoder-decoder", "vision-encoder-decoder", "speech-encoder-decoder"),
        ("combines the models of an encoder and of a decoder, which generates", _ENCODER),
    ),
    "canine": ("reads characters and divides the text into blocks of fixed size", _LONG),
    **dict.fromkeys(
        ("longformer", "led", "bigbird_pegasus"),
        ("pads the text and divides it into windows of fixed size", _LONG),
    ),
    "funnel": ("halves the number of positions from block to block, by rules for each length", _LONG),
    **dict.fromkeys(("nystromformer", "mra"), ("divides the text, of one fixed length, into blocks", _LONG)),
    "reformer": ("divides the text into chunks by random hashes", _LONG),
    **dict.fromkeys(
        ("bros", "layoutlmv2"),
        (
            "needs the boxes of the words (bbox), which no graph takes",
            "train the adapters on a model that reads the text only, such as ModernBERT",
        ),
    ),
    **dict.fromkeys(
        ("siglip2", "siglip2_vision_model"),
        ("reads images as patches, whose number differs between images", "train the adapters on SigLIP"),
    ),
    "lxmert": (
        "reads texts and images",
        "train the adapters on a model that reads only texts or only images, such as ModernBERT or ViT",
    ),
    **dict.fromkeys(("mamba", "mamba2", "falcon_h1", "falcon_mamba", "recurrent_gemma", "rwkv", "xlstm"), _RECURRENT),
}
# Numbers of a configuration that plans read, whether or not the class of the model does; transformers checks no type.
_NUMBERS = (
    *("vocab_size", "type_vocab_size", "max_position_embeddings", "original_max_position_embeddings", "max_seq_len"),
    *("num_hidden_layers", "num_hidden_groups", "decoder_layers", "num_decoder_layers", "pad_token_id"),
)


def check_architecture(model: Any) -> None:
    """Check that the computation of the model is the same for all lengths of text, and its configuration readable.

    Args:
        model: a live model.

    Raises:
        ExportError: it is not; the message names the class, or the entry of the configuration, and what to do instead.
    """
    model = getattr(model, "parts", [model])[0]  # the parts of a model of several have one trunk
    config, name = model.config, type(base_of(model)).__name__
    kind = str(getattr(config, "model_type", None))
    refusal = _REFUSED.get(kind)
    for key in ("layer_types", "layers_block_type"):
        layers = getattr(config, key, None)
        if isinstance(layers, list) and _STATES.intersection(map(str, layers)):
            refusal = _RECURRENT
    if refusal is not None:
        reason, remedy = refusal
        raise ExportError(f"{name} ({kind}) {reason}: this cannot be exported; {remedy}")
    # Plans read the end-of-sequence token of encoder-decoders only; decoders can have several.
    for key in (*_NUMBERS, *(("eos_token_id",) if getattr(config, "is_encoder_decoder", False) else ())):
        if type(found := getattr(config, key, None)) not in (int, type(None)):
            raise ExportError(
                f"the configuration of {name} sets {key} to {reprlib.repr(found)}: expected a whole number; correct it"
            )
    if kind == "big_bird" and config.attention_type != "original_full":
        # The library computes full attention for short texts, and from the first one on for all.
        raise ExportError(
            f"{name} has block sparse attention, whose blocks depend on the length of the text and are random: this cannot be "
            'exported; set config.attention_type to "original_full", which the library uses for short texts itself'
        )
