"""Random model inputs that resemble tokenized batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from exporter.models.inputs import BATCH, DECODER_SEQUENCE, SEQUENCE, sizes
from exporter.plan import Plan
from runtime.bundle import InputEntry

_SEED = 20101

# Name of an input or output -> its values.
Arrays = Mapping[str, np.ndarray]

# How much of the masks is tried: all kinds of rows, rows that a tokenizer pads, or no padding.
Masks = Literal["all", "padded", "none"]
MASKS: tuple[Masks, ...] = ("all", "padded", "none")


def make_inputs(plan: Plan, batch: int, sequence: int, seed: int = _SEED, masks: Masks = "padded") -> dict[str, np.ndarray]:
    """Return random inputs; row 0 has no padding.

    The other rows are, in turn, padded on the right and on the left, and with masks "all" also full of holes and without any
    token, which clients of a graph may pass. Pixels are normally distributed. The decoder's inputs are one token longer than
    the encoder's; there are as many word starts as tokens.

    Args:
        plan: the graph's inputs and limits.
        batch: number of rows.
        sequence: tokens per row, including padding.
        seed: of the random generator, combined with the shape.
        masks: the kinds of rows.

    Returns:
        Input name -> array.
    """
    generator = np.random.default_rng((seed, batch, sequence))
    lengths = {BATCH: batch, SEQUENCE: sequence, "words": sequence, DECODER_SEQUENCE: sequence + 1}
    shapes = sizes(plan.inputs, {axis: min(size, plan.max_lengths.get(axis, size)) for axis, size in lengths.items()})
    values = {entry.name: _random(entry, shapes[entry.name], generator, masks) for entry in plan.inputs}
    if "attention_mask" in values:
        values["input_ids"] = _as_tokenized(values["input_ids"], values["attention_mask"], plan)
    return values


def _random(entry: InputEntry, shape: tuple[int, ...], generator: np.random.Generator, masks: Masks) -> np.ndarray:
    if entry.dtype == "float32":
        return generator.standard_normal(shape).astype(np.float32)
    if entry.name == "attention_mask":
        return _mask(shape, generator, masks)
    if entry.name == "word_starts":
        # Ascending positions, then 0, which is not the start of a word after the first token.
        starts = np.cumsum(generator.integers(1, 3, shape), 1)
        return np.where(starts < shape[1], starts, 0).astype(np.int64)
    return generator.integers(0, entry.limit, shape).astype(np.int64)


def _mask(shape: tuple[int, ...], generator: np.random.Generator, masks: Masks) -> np.ndarray:
    mask = np.ones(shape, dtype=np.int64)
    columns = np.arange(shape[1])
    for row in range(1, shape[0] if masks != "none" else 1):
        padding = int(generator.integers(min(1, shape[1] - 1), shape[1]))  # a single token is not padding
        kind = (row - 1) % (4 if masks == "all" else 2)
        if kind < 2:
            mask[row] = columns < shape[1] - padding if kind == 0 else columns >= padding
        else:
            # A hole at both ends and, in longer rows, at every third token; then no token at all.
            mask[row] = columns % 3 == 1 if kind == 2 else 0
    return mask


def _as_tokenized(ids: np.ndarray, mask: np.ndarray, plan: Plan) -> np.ndarray:
    """Set padding to the padding id, and the last real token to the end-of-sequence id if the model reads it."""
    if plan.padding_id is not None:
        ids = np.where(mask == 1, ids, plan.padding_id)
    if plan.end_id is not None:
        ids = np.where(ids == plan.end_id, plan.end_id + 1 if plan.end_id == 0 else plan.end_id - 1, ids)
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        ids[np.arange(len(ids)), last] = plan.end_id
    return ids.astype(np.int64)
