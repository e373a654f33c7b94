"""Rows of the results of a load test, and their table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.candidates import CANDIDATES
from benchmarks.serving.traffic import Point

_BUSY = 0.1  # cores of other processes from which a measurement is disturbed


@dataclass(frozen=True)
class Setting:
    """The setting of a row.

    Attributes:
        candidate: key of the candidate.
        tasks: number of tasks.
        per_text: tasks of a request.
        repeats: share of repeated texts.
    """

    candidate: str
    tasks: int
    per_text: int
    repeats: float


@dataclass(frozen=True)
class Row(Setting):
    """One candidate at one setting.

    Attributes:
        loads: highest load that keeps each objective, in requests per second; None if the lowest does not.
        peak_mb: peak of the resident memory while it served, in MB, files mapped into memory included; None if it did not.
        difference: largest difference of a probability from single-task PyTorch.
        points: the loads that were measured.
        more: what is particular about the candidate.
        reason: why there are no measurements; empty if there are.
    """

    loads: Sequence[float | None]
    peak_mb: float | None
    difference: float | None
    points: Sequence[Point]
    more: dict[str, Any]
    reason: str = ""

    @property
    def setting(self) -> Setting:
        """The setting of the row."""
        return Setting(self.candidate, self.tasks, self.per_text, self.repeats)

    @property
    def memory_mb(self) -> float | None:
        """Memory of all tasks: measured, or computed where only some of the files were opened."""
        return self.more.get("mb_of_all_files", self.peak_mb)


@dataclass(frozen=True)
class Results:
    """A file of results.

    Attributes:
        head: the run: model, machine, batching, `objectives` in ms, and whether it is `complete`.
        rows: what was measured, in order.
    """

    head: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def objectives(self) -> list[float]:
        """The objectives in ms, ascending."""
        return [float(each) for each in self.head["objectives"]]


def row_of(line: Mapping[str, Any]) -> Row:
    """Return the row that was written as JSON."""
    return Row(**{**line, "points": [Point(**point) for point in line["points"]]})


def read(path: Path) -> Results:
    """Read a results file."""
    head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    rows = [{name: value for name, value in line.items() if name != "kind"} for line in lines]
    return Results(head, tuple(map(row_of, rows)))


def write(path: Path, results: Results) -> None:
    """Write a results file."""
    lines = [{"kind": "run", **results.head}, *({"kind": "row", **asdict(row)} for row in results.rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def markdown(results: Results) -> str:
    """Return Markdown: a table of the highest loads for each objective, and the reasons of empty cells."""
    number = {key: place for place, key in enumerate(CANDIDATES)}
    rows = sorted(results.rows, key=lambda row: number[row.candidate])
    settings = sorted({(row.tasks, row.per_text, row.repeats) for row in rows})
    others = [row for row in rows if not CANDIDATES[row.candidate].ours]
    most = max(row.tasks for row in others or rows)
    parts = []
    for place, objective in enumerate(results.objectives):
        heads = [
            f"requests/s, 95 % within {objective:g} ms",
            *(_title(*each) for each in settings),
            *(f"{what}, {most} tasks" for what in ("CPU per request", "memory")),
        ]
        lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(settings) + 2)]
        for key in dict.fromkeys(row.candidate for row in rows):
            own = {(row.tasks, row.per_text, row.repeats): row for row in rows if row.candidate == key}
            cells = [_cell(own.get(each), place) for each in settings]
            cells += [_cpu(own.values(), most), _memory(own.values(), most)]
            lines.append(f"| {CANDIDATES[key].label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    worst = max((point.others for row in rows for point in row.points), default=0.0)
    busy = [f"Other processes used up to {worst:.1f} cores during a measurement."] if worst >= _BUSY else []
    reasons = dict.fromkeys(f"{CANDIDATES[row.candidate].label}: {row.reason}." for row in rows if row.reason)
    return "\n\n".join([*parts, *(["Failed: " + " ".join(reasons)] if reasons else []), *busy])


def _title(tasks: int, per_text: int, repeats: float) -> str:
    name = f"{tasks} task{'s' * (tasks > 1)}"
    name += f", {per_text} per text" if per_text > 1 else ""
    return name + (f", {repeats:.0%} repeated".replace("%", " %") if repeats else "")


def _cell(row: Row | None, objective: int) -> str:
    if row is None:
        return ""
    if row.reason:
        return "failed"
    load = row.loads[objective]
    return "none" if load is None else f"{load:.1f}" if load < 10 else f"{load:.0f}"


def _cpu(rows: Iterable[Row], tasks: int) -> str:
    """The CPU time of a request of one task, fresh, at the load with the least: batches grow with the load."""
    found = [row for row in rows if (row.tasks, row.per_text, row.repeats) == (tasks, 1, 0.0)]
    times = [point.cpu_ms for row in found for point in row.points if point.cpu_ms]
    return f"{min(times):.1f} ms" if times else ""


def _memory(rows: Iterable[Row], tasks: int) -> str:
    found = [row for row in rows if row.tasks == tasks and row.memory_mb is not None]
    if not found:
        return ""
    row = max(found, key=lambda row: row.memory_mb or 0)
    computed = f" (computed from {row.more['files_open']} files)" if "mb_of_all_files" in row.more else ""
    return f"{(row.memory_mb or 0) / 1e3:.2f} GB{computed}"
