"""Benchmarks of several calls at several shapes: the interleaved run with its progress, its results file and its tables."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.command import exit_status
from benchmarks.contender import Call
from benchmarks.machine import current_machine
from benchmarks.options import Shape
from benchmarks.results_file import rounds_lines, write_rows
from benchmarks.rounds import measure, p95

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Times = Mapping[str, Sequence[float]]
# Columns of every printed table.
COLUMNS = {"call": ("call", ""), "shape": ("shape", ""), "median ms": ("median_ms", ",.1f"), "p95": ("p95_ms", ",.1f")}


@dataclass(frozen=True)
class Prepared:
    """A model whose exports are written.

    Attributes:
        title: title of the printed table.
        head: description for the results file.
        calls: shape -> calls whose outputs agree; raises MismatchError if they do not.
    """

    title: str
    head: Mapping[str, Any]
    calls: Callable[[Shape], dict[str, Call]]


@dataclass(frozen=True)
class CallBenchmark:
    """A benchmark of several calls at several shapes.

    Attributes:
        name: first part of the name of the results file.
        prepare: folder for the exports -> what is measured.
        row: name of a call, shape, its fields of times, seconds of all calls -> row of the results.
        reference: name of the call with which the others are compared.
        columns: header of the printed table -> field of a row and its format.
        markdown: rows -> Markdown table.
    """

    name: str
    prepare: Callable[[Path], Prepared]
    row: Callable[[str, Shape, Mapping[str, float], Times], DataclassInstance]
    reference: str
    columns: Mapping[str, tuple[str, str]]
    markdown: Callable[[Sequence[Any]], str]

    def run(self, options: argparse.Namespace) -> int:
        """Measure at all shapes, write the results, print them, and return the exit status."""
        machine = current_machine(options.threads)
        torch.set_num_threads(options.threads)

        def work() -> None:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
                print("exporting …", file=sys.stderr, flush=True)
                found = self.prepare(Path(scratch))
                times: dict[str, dict[str, list[float]]] = {}
                for shape in options.shapes:
                    times[str(shape)] = timed(found.calls(shape), shape, options.rounds, options.seed)
            rows = [
                self.row(name, shape, summary(own), times[str(shape)])
                for shape in options.shapes
                for name, own in times[str(shape)].items()
            ]
            head = {"command": options.command, **found.head}
            path = write_rows(options.output, self.name, head, machine, rows, rounds_lines(times, self.reference))
            self._print(found.title, rows)
            print(self.markdown(rows))
            print(f"wrote {path}")

        return exit_status(work)

    def _print(self, title: str, rows: Sequence[DataclassInstance]) -> None:
        table = Table(title=title)
        for column, (_, form) in self.columns.items():
            table.add_column(column, justify="right" if form else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(format(getattr(row, field), form) for field, form in self.columns.values()))
        (Console() if sys.stdout.isatty() else Console(width=120)).print(table)


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
