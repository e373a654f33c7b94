"""Calibration files as encoded batches of texts, or as scores of fusion members."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import ExportError
from exporter.texts.files import FORMATS, Row, Scores, Text, read_rows, read_scores
from runtime.text.tokens import Tokens

# A fusion of 16 members keeps 16 hidden states per token: 100 MB for BERT-base.
_BATCH_TOKENS, _BATCH_ROWS = 2048, 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts of similar length, padded to the longest one.

    Attributes:
        rows: indices of the texts.
        feeds: input name -> int64 [rows, longest].
    """

    rows: tuple[int, ...]
    feeds: Mapping[str, npt.NDArray[np.int64]]

    @property
    def mask(self) -> npt.NDArray[np.int64]:
        """1 for real tokens, 0 for padding; [rows, longest]."""
        return self.feeds["attention_mask"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """The content of a calibration file: either texts or scores.

    Attributes:
        source: the path of the file.
        texts: texts or pairs of texts.
        labels: one per text as in the file (name, number or list), or None.
        lines: the number of the line where each text starts, for messages.
        batches: all texts, encoded, in ascending order of length.
        truncated: how many texts were truncated to the model's limit.
        available: how many texts the file has; more than were read, if they were limited.
        scores: scores of fusion members, or None.
    """

    source: str
    texts: tuple[Text, ...] = ()
    labels: tuple[Any, ...] | None = None
    lines: tuple[int, ...] = ()
    batches: tuple[Batch, ...] = ()
    truncated: int = 0
    available: int = 0
    scores: Scores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return counts as JSON types, without the texts: an export does not write user data."""
        return {
            "source": Path(self.source).name,
            "texts": len(self.texts),
            "tokens": int(sum(batch.mask.sum() for batch in self.batches)),
            "truncated": self.truncated,
            "labels": self.labels is not None,
            "scores": self.scores is not None,
        }


def read_calibration(
    path: str | Path, tokenizer: Any, inputs: Sequence[str], max_length: int, limit: int | None = None
) -> Calibration:
    """Read and encode a calibration file in UTF-8.

    .txt: one text per line; blank lines are skipped. .jsonl, .csv (with quotes as in spreadsheets) and .tsv: `text`, or
    `text_a` and `text_b`, and optionally `label`: the name or id of a label, a number for regression, or a list of labels
    (.jsonl) for multi-label; other columns are ignored. .json: scores, {layer: {member: score}} or {fusion: {layer: {member:
    score}}}.

    Args:
        path: the file.
        tokenizer: a fast tokenizer; not needed for scores.
        inputs: the names of the graph's inputs.
        max_length: in tokens; longer texts are truncated as in the runtime.
        limit: read at most this many texts, evenly spaced in the file, which may be sorted by label; None for all.

    Raises:
        ExportError: the file cannot be read, or a line is invalid; the message contains the line number.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ExportError(f"the file {str(path)!r} must end in one of {', '.join(FORMATS)}")
    if kind == ".json":
        return Calibration(str(path), scores=read_scores(path))
    rows = read_rows(path)
    available = len(rows)
    if limit is not None and len(rows) > limit:
        rows = [rows[number * len(rows) // limit] for number in range(limit)]
    tokens, truncated = _encode(path, rows, tokenizer, inputs, max_length)
    return Calibration(
        source=str(path),
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows) if rows[0].label is not None else None,
        lines=tuple(row.line for row in rows),
        batches=tuple(_batches(tokens, tokenizer, inputs)),
        truncated=truncated,
        available=available,
    )


def _encode(
    path: Path, rows: Sequence[Row], tokenizer: Any, inputs: Sequence[str], max_length: int
) -> tuple[list[Tokens], int]:
    if tokenizer is None:
        raise ExportError(f"the texts of {str(path)!r} need a tokenizer: give one, or give scores in a .json file")
    unsupported = [name for name in inputs if name not in ("input_ids", "attention_mask", "token_type_ids")]
    if unsupported:
        raise ExportError(f"a text cannot be encoded to the model's input {unsupported[0]!r}: give scores in a .json file")
    left = tokenizer.truncation_side == "left"
    encoded = whole_texts([row.text for row in rows], tokenizer)
    for row, tokens in zip(rows, encoded, strict=True):
        if not len(tokens):
            raise ExportError(
                f"{path}, line {row.line}: the tokenizer produces no token for {str(row.text)[:40]!r}: remove the line"
            )
    return [tokens.cut(max_length, left) for tokens in encoded], sum(len(tokens) > max_length for tokens in encoded)


def whole_texts(texts: Sequence[Text], tokenizer: Any) -> list[Tokens]:
    """Return the tokens of texts or pairs, neither truncated nor padded.

    Args:
        texts: the texts.
        tokenizer: a fast tokenizer; its own truncation and padding are not changed.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return [Tokens.of(encoding) for encoding in backend.encode_batch(list(texts))]


def _batches(tokens: Sequence[Tokens], tokenizer: Any, inputs: Sequence[str]) -> Iterator[Batch]:
    """Yield padded batches. Rows are sorted by length, so that the size of a batch is its last row's length times its rows."""
    chosen: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row])):
        if chosen and (len(chosen) == _BATCH_ROWS or len(tokens[row]) * (len(chosen) + 1) > _BATCH_TOKENS):
            yield _pad(chosen, tokens, tokenizer, inputs)
            chosen = []
        chosen.append(row)
    yield _pad(chosen, tokens, tokenizer, inputs)


def _pad(rows: Sequence[int], tokens: Sequence[Tokens], tokenizer: Any, inputs: Sequence[str]) -> Batch:
    width = len(tokens[rows[-1]])
    # With the mask, even if it is not an input of the graph: the model runs on padded rows here.
    feeds = {name: np.zeros((len(rows), width), np.int64) for name in dict.fromkeys((*inputs, "attention_mask"))}
    feeds["input_ids"].fill(tokenizer.pad_token_id or 0)
    for index, row in enumerate(rows):
        length = len(tokens[row])
        columns = slice(width - length, width) if tokenizer.padding_side == "left" else slice(0, length)
        feeds["input_ids"][index, columns] = tokens[row].ids
        feeds["attention_mask"][index, columns] = 1
        if "token_type_ids" in feeds:
            feeds["token_type_ids"][index, columns] = tokens[row].type_ids
    return Batch(tuple(rows), feeds)
