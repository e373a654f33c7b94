"""Benchmarks of several calls at several shapes: the interleaved run with its progress, and the table of times."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence

from tqdm import tqdm

from benchmarks.options import Shape
from benchmarks.rounds import measure, p95
from benchmarks.variant import Call


def timed(calls: Mapping[str, Call], shape: Shape, rounds: int, seed: int) -> dict[str, list[float]]:
    """Time calls in interleaved rounds, and show the progress.

    Args:
        calls: name -> call.
        shape: shape of the inputs, for the progress.
        rounds: number of rounds.
        seed: of the order of the calls.

    Returns:
        Name -> seconds per round.
    """
    with tqdm(total=rounds * len(calls), desc=str(shape), file=sys.stderr, unit="run") as bar:
        return measure(calls, rounds, seed, lambda _: bar.update() and None)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return the fields `median_ms` and `p95_ms` of a row."""
    return {"median_ms": 1e3 * statistics.median(seconds), "p95_ms": 1e3 * p95(seconds)}


def by_shape(rows: Iterable[tuple[str, str, float, float]]) -> str:
    """Return a Markdown table: a line per call, a column per shape, and in brackets the ratio.

    Args:
        rows: name of the call, shape, median in milliseconds and ratio.
    """
    cells = {(call, shape): f"{median:,.0f} ms ({ratio:.2f}x)" for call, shape, median, ratio in rows}
    shapes = list(dict.fromkeys(shape for _, shape in cells))
    lines = [f"| batch x length | {' | '.join(shape.replace('x', ' x ') for shape in shapes)} |"]
    lines.append("| --- |" + " ---: |" * len(shapes))
    for call in dict.fromkeys(call for call, _ in cells):
        lines.append(f"| {call} | {' | '.join(cells[call, shape] for shape in shapes if (call, shape) in cells)} |")
    return "\n".join(lines)
