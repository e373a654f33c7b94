"""Rounds of a measurement that is done in pieces: a folder with the options of the run and all rounds so far."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.contender import Call
from benchmarks.rounds import measure
from exporter import ExportError
from exporter.advise.measurement_files import replace_text

_SETUP, _ROUNDS = "setup.json", "rounds.jsonl"
# The first calls allocate memory.
_WARM = 2


class KeptRounds:
    """Folder of a run that can be stopped and continued."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        """Create the folder, or continue with it.

        Args:
            folder: the folder.
            setup: what must be the same in all pieces, in JSON types.

        Raises:
            ExportError: the folder belongs to a run with another setup.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _SETUP
        if not path.exists():
            replace_text(path, json.dumps(dict(setup)))
        elif (before := json.loads(path.read_text(encoding="utf-8"))) != setup:
            found = f"{folder} was created with the options {before}, found {dict(setup)}"
            raise ExportError(f"{found}: use another --folder, or the same options")

    def times(self, group: str) -> dict[str, list[float]]:
        """Return the seconds of each call of a group in each round, in the order of the rounds; empty without a round."""
        rounds = [line["seconds"] for line in self._lines() if line["group"] == group]
        return {name: [each[name] for each in rounds] for name in rounds[0]} if rounds else {}

    @property
    def groups(self) -> list[str]:
        """The groups that have a round."""
        return list(dict.fromkeys(line["group"] for line in self._lines()))

    def count(self, group: str) -> int:
        """Return the number of rounds of a group."""
        return sum(line["group"] == group for line in self._lines())

    def measure(self, group: str, calls: Mapping[str, Call], rounds: int, seed: int, seconds: float = math.inf) -> None:
        """Measure interleaved rounds until the group has `rounds`, or for `seconds` and at least one round.

        Args:
            group: calls that are compared with each other, such as a shape.
            calls: name -> call.
            rounds: number of rounds of all pieces together.
            seed: of the order in a round.
            seconds: time limit of this piece.
        """
        start, have = time.monotonic(), self.count(group)
        if have >= rounds:
            return
        for call in calls.values():
            for _ in range(_WARM):
                call()
        path = self.folder / _ROUNDS
        # A run that was killed may have left half a line.
        replace_text(path, "".join(json.dumps(line) + "\n" for line in self._lines()))
        with path.open("a", encoding="utf-8") as file:
            for number in tqdm(range(have, rounds), desc=group, file=sys.stderr, unit="round"):
                taken = measure(calls, 1, seed + number, lambda _: None)
                file.write(json.dumps({"group": group, "seconds": {name: own[0] for name, own in taken.items()}}) + "\n")
                file.flush()
                if time.monotonic() - start > seconds:
                    break

    def _lines(self) -> list[dict[str, Any]]:
        path = self.folder / _ROUNDS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole, _, _ = text.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]
