"""Architectures that no graph of dynamic length represents: refused by name before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.errors import ExportError
from exporter.models.peft_modules import base_of

__all__ = ["check_architecture"]

_ENCODER = "export a model of its encoder only"
_LONG = "train the adapters on a model with full attention, such as ModernBERT"
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
}


def check_architecture(model: Any) -> None:
    """Check that the computation of the model is the same for all lengths of text.

    Args:
        model: a live model.

    Raises:
        ExportError: it is not; the message names the class and what to do instead.
    """
    model = getattr(model, "parts", [model])[0]  # the parts of a model of several have one trunk
    config, name = model.config, type(base_of(model)).__name__
    kind = str(getattr(config, "model_type", None))
    if kind in _REFUSED:
        reason, remedy = _REFUSED[kind]
        raise ExportError(f"{name} ({kind}) {reason}: this cannot be exported; {remedy}")
    if kind == "big_bird" and config.attention_type != "original_full":
        # The library computes full attention for short texts, and from the first one on for all.
        raise ExportError(
            f"{name} has block sparse attention, whose blocks depend on the length of the text and are random: this cannot be "
            'exported; set config.attention_type to "original_full", which the library uses for short texts itself'
        )
