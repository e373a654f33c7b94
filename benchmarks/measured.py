"""The measured rounds in a folder of results, in one form for all benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import ExportError

_DATE = re.compile(r"-\d{8}$")
# The main benchmark's reference of ratios is the fastest eager contender, which differs between machines; this one does not.
_MAIN_REFERENCE = "parallel"
# What a results file says about its model; times of different models are not compared.
_SETTINGS = ("name", "model", "layers", "hidden", "vocabulary", "tasks", "drop", "slots", "precision", "device", "size")


@dataclass(frozen=True)
class Measured:
    """Rounds of one call, with those of the call that it is compared with.

    Attributes:
        benchmark: name of the results file without its date.
        group: the calls that were measured together, such as a shape.
        call: name of the call.
        reference: name of the call that it is compared with; the same for the reference itself.
        times_ms: milliseconds of each round.
        reference_ms: milliseconds of the reference in the same rounds.
    """

    benchmark: str
    group: str
    call: str
    reference: str
    times_ms: tuple[float, ...]
    reference_ms: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """Benchmark, group and call, which identify the same measurement in another folder."""
        return self.benchmark, self.group, self.call

    @property
    def ratios(self) -> list[float]:
        """Time relative to the reference, round by round."""
        return [own / other for own, other in zip(self.times_ms, self.reference_ms, strict=True)]


@dataclass(frozen=True)
class Results:
    """Everything that a folder of results holds in rounds.

    Attributes:
        rows: key -> rounds.
        machines: benchmark -> its machine, as in the file.
        settings: benchmark -> what its file says about the model.
        files: benchmark -> its newest file.
        without: names of files without rounds.
    """

    rows: Mapping[tuple[str, str, str], Measured]
    machines: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, str | int]]
    files: Mapping[str, Path]
    without: tuple[str, ...]


def read_results(folder: Path) -> Results:
    """Read a folder of results; of several files of one benchmark, the newest.

    Raises:
        ExportError: the folder does not exist, or none of its files holds rounds.
    """
    if not folder.is_dir():
        raise ExportError(f"expected a folder of results, found no folder {folder}")
    newest = {_DATE.sub("", path.stem): path for path in sorted(folder.glob("*.json*")) if _DATE.search(path.stem)}
    rows: dict[tuple[str, str, str], Measured] = {}
    machines: dict[str, Mapping[str, Any]] = {}
    settings: dict[str, Mapping[str, str | int]] = {}
    without = []
    for benchmark, path in newest.items():
        lines = _lines(path)
        found = [*_of_rounds(benchmark, lines), *_of_contenders(benchmark, lines)]
        rows |= {row.key: row for row in found}
        if found:
            head = next(line for line in lines if "machine" in line)
            machines[benchmark], settings[benchmark] = head["machine"], _settings(head)
        else:
            without.append(path.name)
    if not rows:
        raise ExportError(f"{folder} has no results with rounds: expected a folder that `python -m benchmarks suite` wrote")
    files = {benchmark: path for benchmark, path in newest.items() if benchmark in machines}
    return Results(rows, machines, settings, files, tuple(without))


def _settings(head: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the settings of one model; lists are of several models, whose calls have different names."""
    model = head.get("model")
    whole = {**head, **(model if isinstance(model, dict) else {})}
    return {name: whole[name] for name in _SETTINGS if isinstance(whole.get(name), str | int)}


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines()]
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExportError(f"{path} is not a results file: {error}") from None
    return [whole, *whole.get("lines", ())] if isinstance(whole, dict) else []


def _of_rounds(benchmark: str, lines: list[dict[str, Any]]) -> Iterator[Measured]:
    for line in lines:
        if line.get("kind") == "rounds" and "reference" in line:
            times, reference = line["times_ms"], line["reference"]
            for call, own in times.items():
                yield Measured(benchmark, line["group"], call, reference, tuple(own), tuple(times[reference]))


def _of_contenders(benchmark: str, lines: list[dict[str, Any]]) -> Iterator[Measured]:
    rows = [line for line in lines if "variant" in line and line["times_ms"]]
    by_shape: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in rows:
        by_shape.setdefault(f"{row['batch']}x{row['length']}", {})[row["variant"]] = tuple(row["times_ms"])
    for shape, times in by_shape.items():
        reference = _MAIN_REFERENCE if _MAIN_REFERENCE in times else next(iter(times))
        for call, own in times.items():
            yield Measured(benchmark, shape, call, reference, own, times[reference])
