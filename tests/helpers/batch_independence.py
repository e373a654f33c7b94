"""Texts by themselves and together with longer ones: logits must not depend on the other texts of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import runtime
from runtime.bundle import read_manifest
from runtime.text.encode import BatchLimits, TextEncoder

_FIRST = 5  # ids below are those of special tokens
_LIMITS = BatchLimits(rows=64, tokens=10000, call=10000)


def _word(number: int) -> str:
    return f"w{number:02d}"  # two digits: no special token is part of another word


SHORT, LONG = (" ".join(map(_word, numbers)) for numbers in ((7, 23, 9, 31), range(_FIRST, 19)))


def left_tokenizer(model: Any) -> Any | None:
    """A tokenizer for the vocabulary of a tiny model that says: pad on the left. None for a model of images or audio."""
    config: Any = model.config
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or getattr(model, "main_input_name", "input_ids") != "input_ids":
        return None
    tokenizer = Tokenizer(models.WordLevel({_word(number): number for number in range(size)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if config.is_encoder_decoder or config.model_type.startswith("clip"):
        end = int(config.eos_token_id)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_word(end)}", special_tokens=[(_word(end), end)])
    inputs = ["input_ids", "attention_mask"]
    if (getattr(config, "type_vocab_size", 0) or 0) > 1:
        inputs.append("token_type_ids")
    padding = config.pad_token_id if config.pad_token_id is not None else 0
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_word(padding), padding_side="left", model_input_names=inputs
    )


def batch_difference(folder: Path) -> float:
    """The largest difference of a text's logits by itself and in a batch, relative to max(1, max |logit|)."""
    manifest = read_manifest(folder)
    encoder = TextEncoder.load(folder, manifest)
    predictor = runtime.load(folder, provider="cpu", threads=1)
    (alone,) = encoder.batches(encoder.encode([SHORT]), _LIMITS)
    rows = encoder.encode([LONG, SHORT])
    (together,) = (batch for batch in encoder.batches(rows, _LIMITS) if 1 in batch.rows)
    place, length, width = together.rows.index(1), len(rows[1]), together.feeds["input_ids"].shape[1]
    assert together.feeds["attention_mask"][place].sum() == length
    assert (length == width) == manifest.padding_counts  # texts are then not padded
    start, worst = encoder.offset(rows[1], width), 0.0
    expected, found = predictor.run(alone.feeds), predictor.run(together.feeds)
    for task in manifest.tasks:
        if task.head != "dependency_parsing":  # its words are given by position
            for name in task.result_names:
                one, other = expected[name][0], found[name][place]
                if one.shape != other.shape:
                    other = other[start : start + length]
                worst = max(worst, float(np.abs(one - other).max() / max(1.0, np.abs(one).max())))
    return worst
