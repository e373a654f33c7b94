"""Texts of the requests: test sets, or made texts of the same lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# Tokens of the 16,675 texts of the example's test sets, with special tokens: the middles of 20 equal parts, by length
_LENGTHS = (9, 13, 16, 18, 20, 23, 25, 28, 30, 33, 37, 42, 48, 48, 58, 64, 64, 64, 64, 64)
_SPECIAL = 2
# One token each
_WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you "
    "were all her she there would their we him been has when who will no more if out so up said what its about than into them "
    "can only other time new some could these two may first then do any like my now over such our man me even most made after"
)
_MADE = 20_000


def made_texts() -> list[Any]:
    """Return texts of random words, as long as those of the example's test sets; few occur twice."""
    rng = np.random.default_rng(0)
    lengths = rng.choice(_LENGTHS, _MADE) - _SPECIAL
    words = _WORDS.split()
    return [" ".join(rng.choice(words, length)) for length in lengths]


def read_texts(folder: Path) -> list[Any]:
    """Return the texts and pairs that `python -m training.texts` wrote, in an order that mixes the test sets."""
    # Not splitlines(): texts contain other characters that it takes for ends of lines
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text("utf-8").split("\n") if line]
    records = [json.loads(line) for line in lines]
    texts = [record["text"] if "text" in record else (record["text_a"], record["text_b"]) for record in records]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]
