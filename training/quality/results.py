"""The results file of the comparison: how it was measured, the adapters, the labels and all predictions; no texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.quality.answers import FILE, Answers, digits, read_answers
from training.quality.graphs import Result, TestSet
from training.quality.machine import description
from training.quality.mpnet import NAME
from training.quality.train import Piece

COMMANDS = ("python -m training.quality --out DIR", "python -m training.quality.evaluate DIR --results FILE")


@dataclass(frozen=True)
class Results:
    """The content of a results file.

    Attributes:
        run: date, commands, machine and versions.
        adapters: training results of each adapter.
        expected: task -> number of the label of each test text, one character each.
        labels: task -> names of its labels.
        answers: the predictions.
    """

    run: Mapping[str, Any]
    adapters: Mapping[Piece, Result]
    expected: Mapping[str, str]
    labels: Mapping[str, tuple[str, ...]]
    answers: tuple[Answers, ...]


def write_results(path: Path, folder: Path, adapters: Mapping[Piece, Result], tests: Mapping[str, TestSet]) -> None:
    """Write all results of a folder as JSON lines.

    Args:
        path: the file; its folder is created if necessary.
        folder: folder of `python -m training.quality.evaluate`.
        adapters: the trained adapters.
        tests: task -> its test set.
    """
    answers = sorted(read_answers(folder / FILE), key=lambda row: row.key)
    lines: list[dict[str, Any]] = [
        {
            "kind": "run",
            "commands": COMMANDS,
            "trunk": NAME,
            **description(),
        },
        *({"kind": "adapter", **result} for result in adapters.values()),
        *(
            {"kind": "test", "task": task, "labels": each.labels, "expected": digits(each.expected)}
            for task, each in tests.items()
        ),
        *({"kind": "answers", **asdict(row)} for row in answers),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read a file of `write_results`."""
    kinds: dict[str, list[dict[str, Any]]] = {"run": [], "adapter": [], "test": [], "answers": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        kinds[content.pop("kind")].append(content)
    return Results(
        run=kinds["run"][0],
        adapters={Piece(each["task"], each["method"], each["seed"]): each for each in kinds["adapter"]},
        expected={each["task"]: each["expected"] for each in kinds["test"]},
        labels={each["task"]: tuple(each["labels"]) for each in kinds["test"]},
        answers=tuple(Answers(**each) for each in kinds["answers"]),
    )
