"""The user's calibration file: texts, with labels or without, or ready scores of a fusion's members."""

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

# A fusion of 16 members holds 16 hidden states of every token: 100 MB for BERT-base.
_BATCH_TOKENS, _BATCH_ROWS = 2048, 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of similar length: `rows` are indices into the texts, `feeds` int64 [rows, longest] by input name."""

    rows: tuple[int, ...]
    feeds: Mapping[str, npt.NDArray[np.int64]]

    @property
    def mask(self) -> npt.NDArray[np.int64]:
        """1 for a real token, 0 for padding; [rows, longest]."""
        return self.feeds["attention_mask"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration file holds: texts, or scores and nothing else.

    Attributes:
        source: the file's path.
        texts: texts or pairs.
        labels: one per text as the file has it (name, number, list), or None.
        lines: the line on which each text begins, for messages.
        batches: all texts, encoded; the shortest first.
        truncated: how many texts were cut to the model's length.
        scores: given scores, or None.
    """

    source: str
    texts: tuple[Text, ...] = ()
    labels: tuple[Any, ...] | None = None
    lines: tuple[int, ...] = ()
    batches: tuple[Batch, ...] = ()
    truncated: int = 0
    scores: Scores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Counts as JSON types. The texts are the user's own and stay out of what an export writes."""
        return {
            "source": Path(self.source).name,
            "texts": len(self.texts),
            "tokens": int(sum(batch.mask.sum() for batch in self.batches)),
            "truncated": self.truncated,
            "labels": self.labels is not None,
            "scores": self.scores is not None,
        }


def read_calibration(path: str | Path, tokenizer: Any, inputs: Sequence[str], max_length: int) -> Calibration:
    """Reads and encodes a UTF-8 file.

    .txt: one text a line, blank lines are skipped. .jsonl, .csv (quoted as spreadsheets do) and .tsv: `text`, or `text_a` and
    `text_b`, and optionally `label`: a label's name or id, a number for regression, a list of them (.jsonl) for multi-label;
    other columns are ignored. .json: given scores, {layer: {member: score}} or {fusion: {layer: {member: score}}}.

    Texts over `max_length` tokens are cut as the runtime cuts them. `inputs` are the graph's; `tokenizer` is a fast one.

    Raises:
        ExportError: names the file and the line.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ExportError(f"the calibration file {str(path)!r} must end in one of {', '.join(FORMATS)}")
    if kind == ".json":
        return Calibration(str(path), scores=read_scores(path))
    rows = read_rows(path)
    tokens, truncated = _encode(path, rows, tokenizer, inputs, max_length)
    return Calibration(
        source=str(path),
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows) if rows[0].label is not None else None,
        lines=tuple(row.line for row in rows),
        batches=tuple(_batches(tokens, tokenizer, inputs)),
        truncated=truncated,
    )


def _encode(
    path: Path, rows: Sequence[Row], tokenizer: Any, inputs: Sequence[str], max_length: int
) -> tuple[list[Tokens], int]:
    if tokenizer is None:
        raise ExportError(f"the texts of {str(path)!r} need a tokenizer: give one, or ready scores in a .json file")
    strange = [name for name in inputs if name not in ("input_ids", "attention_mask", "token_type_ids")]
    if strange:
        raise ExportError(f"texts cannot give the model's input {strange[0]!r}: give ready scores in a .json file")
    # On a copy: the user's tokenizer keeps its truncation and padding.
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    left = tokenizer.truncation_side == "left"
    encoded = [Tokens.of(encoding) for encoding in backend.encode_batch([row.text for row in rows])]
    for row, tokens in zip(rows, encoded, strict=True):
        if not len(tokens):
            raise ExportError(f"{path}, line {row.line}: the tokenizer makes no token of {str(row.text)[:40]!r}")
    return [tokens.cut(max_length, left) for tokens in encoded], sum(len(tokens) > max_length for tokens in encoded)


def _batches(tokens: Sequence[Tokens], tokenizer: Any, inputs: Sequence[str]) -> Iterator[Batch]:
    """Padded batches. The longest row is the last of its batch, so that its length times the rows is the batch's size."""
    chosen: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row])):
        if chosen and (len(chosen) == _BATCH_ROWS or len(tokens[row]) * (len(chosen) + 1) > _BATCH_TOKENS):
            yield _pad(chosen, tokens, tokenizer, inputs)
            chosen = []
        chosen.append(row)
    yield _pad(chosen, tokens, tokenizer, inputs)


def _pad(rows: Sequence[int], tokens: Sequence[Tokens], tokenizer: Any, inputs: Sequence[str]) -> Batch:
    width = len(tokens[rows[-1]])
    # The mask even where it is no input of the graph: the model is run on padded rows here.
    feeds = {name: np.zeros((len(rows), width), np.int64) for name in dict.fromkeys((*inputs, "attention_mask"))}
    feeds["input_ids"].fill(tokenizer.pad_token_id or 0)
    for index, row in enumerate(rows):
        length = len(tokens[row])
        place = slice(width - length, width) if tokenizer.padding_side == "left" else slice(0, length)
        feeds["input_ids"][index, place] = tokens[row].ids
        feeds["attention_mask"][index, place] = 1
        if "token_type_ids" in feeds:
            feeds["token_type_ids"][index, place] = tokens[row].type_ids
    return Batch(tuple(rows), feeds)
