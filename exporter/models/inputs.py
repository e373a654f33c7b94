"""Graph inputs of a model: names, types, axes and limits."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch

from exporter.errors import ExportError
from exporter.models.peft_modules import base_of
from exporter.models.peft_prompts import prompt_tokens
from runtime.bundle import HeadType, InputEntry

# Axis names in the graph, as in transformers and Optimum.
BATCH, SEQUENCE, DECODER_SEQUENCE = "batch", "sequence", "decoder_sequence"
_TEXT = (BATCH, SEQUENCE)
_AUDIO = "WhisperForAudioClassification"
# No model takes texts of as many tokens: a tokenizer that gives this number or a larger one knows no limit.
_UNLIMITED = 10**9


def model_inputs(
    model: Any, tokenizer: Any, kinds: Collection[HeadType], images: tuple[int, int] | None = None
) -> tuple[InputEntry, ...]:
    """Return the graph inputs that the model needs for the given head types.

    Args:
        model: a live model.
        tokenizer: a fast tokenizer; `token_type_ids` is an input if it gives them and the model reads them. Without one (None),
            it is an input of a model with several segments.
        kinds: the head types of all tasks.
        images: height and width of the images that the image processor makes; None without one, or if they are not known.

    Raises:
        ExportError: the model does not take these images, or takes neither texts nor images nor audio as features of fixed
            size.
    """
    config, name = model.config, _name(model)
    main = getattr(model, "main_input_name", "input_ids")
    if main == "pixel_values":
        return (_pixels(model, images),)
    if main != "input_ids":
        return (_audio(model, main, kinds),)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        parts = " but a text_config: it reads texts and images" if getattr(config, "text_config", None) is not None else ""
        raise ExportError(
            f"the configuration of {name} has no vocab_size{parts}: expected a text or image model"
            + (", such as the class of its text_config" if parts else "")
        )
    found = [InputEntry("input_ids", "int64", _TEXT, vocabulary), InputEntry("attention_mask", "int64", _TEXT, 2)]
    if (segments := _token_types(model, tokenizer, vocabulary)) > 0:
        found.append(InputEntry("token_type_ids", "int64", _TEXT, segments))
    if "seq2seq_lm" in kinds:
        found.append(InputEntry("decoder_input_ids", "int64", (BATCH, DECODER_SEQUENCE), vocabulary))
    if "dependency_parsing" in kinds:
        # The position of each word's first token; there are at most as many words as tokens.
        found.append(InputEntry("word_starts", "int64", (BATCH, "words"), 0))
    return tuple(found)


def _token_types(model: Any, tokenizer: Any, vocabulary: int) -> int:
    """Return the limit of `token_type_ids`; 0 if they are not an input."""
    own = getattr(model.config, "type_vocab_size", None)
    if tokenizer is None:
        return own if own is not None and own > 1 else 0
    if "token_type_ids" not in tokenizer.model_input_names:
        return 0
    if own is not None:
        return int(own)
    # XLNet compares them; GPT-2 and its relatives look them up in the embeddings of tokens.
    return vocabulary if "token_type_ids" in inspect.signature(_first_base(model).forward).parameters else 0


def _pixels(model: Any, images: tuple[int, int] | None) -> InputEntry:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    own = (size, size) if isinstance(size, int) else tuple(size or ())
    sides = images or own
    channels = getattr(config, "num_channels", None)
    if len(sides) != 2 or not isinstance(channels, int):
        missing, remedy = "num_channels, the channels of an image", ""
        if len(sides) != 2:
            missing = "image_size, the size of the graph's images"
            remedy = "save the image processor, which makes images of one size, in the model's folder, or "
        raise ExportError(f"the configuration of {_name(model)} has no {missing}: {remedy}add the entry to config.json")
    if sides != own:
        # DINOv2 is trained with larger images than its processor makes, and takes any size.
        _check_images(model, channels, sides, own)
    return InputEntry("pixel_values", "float32", (BATCH, *map(str, (channels, *sides))), 0)


def _check_images(model: Any, channels: int, sides: tuple[int, ...], own: tuple[int, ...]) -> None:
    """Raise ExportError if a model does not take images of another size than that of its configuration."""
    inner = base_of(getattr(model, "parts", [model])[0])
    try:
        with torch.no_grad():
            inner(pixel_values=torch.zeros(1, channels, *sides, dtype=inner.dtype, device=inner.device))
    except (RuntimeError, ValueError) as error:
        found, expected = ("x".join(map(str, size)) for size in (sides, own))
        raise ExportError(
            f"the image processor makes images of {found} pixels, and {_name(model)} takes {expected or 'others'}: correct "
            "size or crop_size in preprocessor_config.json, or give the processor of this model"
        ) from error


def _audio(model: Any, main: str, kinds: Collection[HeadType]) -> InputEntry:
    """The spectrogram of Whisper, which has one length: its feature extractor pads and cuts the audio to 30 seconds."""
    config, name = model.config, _name(model)
    if getattr(config, "model_type", None) != "whisper":
        raise ExportError(f"{name} reads {main}, which is not supported: expected a text or image model, or {_AUDIO}")
    if "seq2seq_lm" in kinds:
        raise ExportError(f"{name} generates a text from audio, which is not supported: of Whisper, only {_AUDIO} is exported")
    # Two convolutions, of which the second one has a stride of 2.
    return InputEntry("input_features", "float32", (BATCH, str(config.num_mel_bins), str(2 * config.max_source_positions)), 0)


def _name(model: Any) -> str:
    """The transformers class; of a model of several, the first one's."""
    return type(_first_base(model)).__name__


def _first_base(model: Any) -> Any:
    return base_of(getattr(model, "parts", [model])[0])


def used_inputs(inputs: Collection[InputEntry], kind: HeadType) -> tuple[str, ...]:
    """Return the names of the inputs that a task with a head of type `kind` reads."""
    only = {"decoder_input_ids": "seq2seq_lm", "word_starts": "dependency_parsing"}
    return tuple(entry.name for entry in inputs if only.get(entry.name, kind) == kind)


def max_lengths(model: Any, tokenizer: Any, inputs: Collection[InputEntry]) -> dict[str, int]:
    """Return the longest sequence per axis, in tokens; an axis without a limit is absent.

    The limit of texts is the smaller one of the model's positions and the tokenizer's `model_max_length`. The decoder's tokens
    are not made from a text, so that only the positions limit them.

    Args:
        model: a live model.
        tokenizer: a fast tokenizer, or None.
        inputs: the graph's inputs.

    Raises:
        ExportError: the model or the tokenizer takes at most one token.
    """
    axes = list(dict.fromkeys(axis for entry in inputs for axis in entry.shape if not axis.isdigit() and axis != BATCH))
    found: dict[str, int] = {}
    positions, texts = _positions(model) if axes else None, _longest_text(tokenizer)
    if positions is not None:  # a prompt of PEFT takes positions of the model
        positions -= prompt_tokens(model) + _masked_prefix(model)
    for axis in axes:
        limits = {"max_position_embeddings": positions, "model_max_length": None if axis == DECODER_SEQUENCE else texts}
        known = {name: limit for name, limit in limits.items() if limit is not None}
        if not known:
            continue
        name = min(known, key=lambda each: known[each])
        if known[name] < 2:
            taker = type(model if name == "max_position_embeddings" else tokenizer).__name__
            raise ExportError(f"{taker} takes at most one token ({name}): expected a limit of at least 2")
        found[axis] = known[name]
    return found


def _longest_text(tokenizer: Any) -> int | None:
    """The tokenizer's limit in tokens; None without one, for which transformers has numbers such as 1e30."""
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < _UNLIMITED:
        return None
    return int(limit)


def _positions(model: Any) -> int | None:
    # MPT and DBRX have a name for it that transformers does not map.
    stated = getattr(model.config, "max_position_embeddings", getattr(model.config, "max_seq_len", None))
    # T5 only has relative positions; XLNet states -1.
    limit = stated if isinstance(stated, int) and stated > 0 else None
    for name, found in model.named_modules():
        # PEFT wraps an embedding that it adapts.
        module = getattr(found, "base_layer", found)
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and related models do not use the positions up to the padding index and count from the next one.
            own = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            # YOSO counts from 2 and has two more rows.
            return own if limit is None else min(own, limit)
    return limit


def _masked_prefix(model: Any) -> int:
    """How many tokens the longest prefix of `adapters` takes from a text where the causal mask is a table, as in GPT-2."""
    lengths = (getattr(getattr(module, "config", None), "prefix_length", None) for module in model.modules())
    if not any(name.endswith(".bias") and buffer.dtype == torch.bool for name, buffer in model.named_buffers()):
        return 0
    return max((length for length in lengths if isinstance(length, int)), default=0)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Check that every token id of the tokenizer is in the model's vocabulary.

    Raises:
        ExportError: the tokenizer has more tokens than the model.
    """
    vocabulary = getattr(model.config, "vocab_size", None)
    if tokenizer is not None and isinstance(vocabulary, int) and len(tokenizer) > vocabulary:
        raise ExportError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocabulary {vocabulary:,}: use the tokenizer of this "
            "model"
        )


def sizes(inputs: Collection[InputEntry], axes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input by name, with the given lengths of named axes."""
    return {entry.name: tuple(int(axis) if axis.isdigit() else axes[axis] for axis in entry.shape) for entry in inputs}
