"""Predictions of exported graphs on test texts: the raw results of the comparison, one character per text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# The number of a label as one character.
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
FILE = "answers.jsonl"


@dataclass(frozen=True)
class Answers:
    """Predictions of one adapter at one drop in one precision.

    Attributes:
        task: name of the task.
        method: how the adapter was trained.
        seed: seed of the training.
        precision: precision of the graph.
        drop: number of layers without adapters.
        predictions: numbers of the predicted labels of the first texts, one character each.
        difference: maximum |graph - library| / max(1, |library|) of the logits of some texts; None if not compared.
    """

    task: str
    method: str
    seed: int
    precision: str
    drop: int
    predictions: str
    difference: float | None = None

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        """Identity of the row; a later row with more texts replaces an earlier one."""
        return self.task, self.method, self.seed, self.precision, self.drop


def digits(numbers: Iterable[int]) -> str:
    """Return label numbers as text, one character each.

    Raises:
        ValueError: a number is not from 0 to 35.
    """
    found = [int(number) for number in numbers]
    if any(not 0 <= number < len(_DIGITS) for number in found):
        raise ValueError(f"expected label numbers from 0 to {len(_DIGITS) - 1}, found {max(found)}")
    return "".join(_DIGITS[number] for number in found)


def accuracy(predictions: str, expected: str) -> float:
    """Return the share of predictions that are the expected labels, over the texts that have a prediction."""
    pairs = list(zip(predictions, expected, strict=False))
    return sum(one == other for one, other in pairs) / len(pairs)


def read_answers(path: Path) -> list[Answers]:
    """Read the rows of a file; of rows with one key the last one counts. A file that is missing has none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # A run that was killed may have left half a line.
    lines = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
    rows = [Answers(**line) for line in lines]
    return list({row.key: row for row in rows}.values())


def add_answers(path: Path, rows: Sequence[Answers]) -> None:
    """Replace rows of equal keys in a file, and append the others."""
    whole = {row.key: row for row in (*read_answers(path), *rows)}
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(asdict(row)) + "\n" for row in whole.values()), encoding="utf-8")
    partial.replace(path)
