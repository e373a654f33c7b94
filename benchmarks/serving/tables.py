"""Rows of the results of a load test, and their table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.engines import CANDIDATES
from benchmarks.serving.traffic import Point


@dataclass(frozen=True)
class Row:
    """One candidate at one setting.

    Attributes:
        candidate: key of the candidate.
        tasks: number of tasks.
        per_text: tasks of a request.
        repeats: share of repeated texts.
        objective_ms: latency that 95 % of the requests must keep.
        load: highest load that keeps it, in requests per second; None if the lowest does not.
        peak_mb: peak of the resident memory in MB, files mapped into memory included.
        points: the loads that were measured.
        more: what is particular about the candidate.
    """

    candidate: str
    tasks: int
    per_text: int
    repeats: float
    objective_ms: float
    load: float | None
    peak_mb: float
    points: Sequence[Point]
    more: dict[str, Any]


def read(path: Path) -> list[Row]:
    """Read the rows of a results file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [{name: value for name, value in line.items() if name != "kind"} for line in lines if line["kind"] == "row"]
    return [Row(**{**row, "points": [Point(**point) for point in row["points"]]}) for row in rows]


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: the highest load of each candidate and setting, and its memory."""
    lines = ["| candidate | tasks | tasks per text | repeated | requests/s | memory |", "| --- |" + " ---: |" * 5]
    for row in rows:
        load = "none" if row.load is None else f"{row.load:.1f}" if row.load < 10 else f"{row.load:.0f}"
        memory = f"{row.more.get('mb_of_all_files', row.peak_mb) / 1e3:.2f} GB"
        memory += f" (computed; {row.more['files_open']} files open)" if "mb_of_all_files" in row.more else ""
        label = CANDIDATES[row.candidate].label
        lines.append(f"| {label} | {row.tasks} | {row.per_text} | {row.repeats:.0%} | {load} | {memory} |".replace("%", " %"))
    return "\n".join(lines)
