"""Benchmark of the time as a function of drop and number of tasks, against two predictions.

`python -m benchmarks.growth` exports a randomly initialized BERT for every number of tasks at every drop. The predictions have
no fitted parameters:

1. By operations: the time of one graph, the one with the most tasks at the lowest drop, is measured. The times of all other
   graphs are predicted from the operations of their matrix products, counted in the graph: trunk + tasks x branch.
2. By layers: the times of four graphs are measured, with the lowest and highest drop and the fewest and most tasks. All others
   are interpolated as trunk + tasks x branch, where both terms change linearly with the drop.

With --folder, the graphs and rounds are kept, and the next run continues where the previous one stopped. --seconds limits a
run, to measure in several parts on a shared machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command import exit_status
from benchmarks.growth_model import Point, Row, markdown, rows
from benchmarks.kept_rounds import KeptRounds
from benchmarks.machine import current_machine
from benchmarks.models import Candidate, random_bert
from benchmarks.options import Shape, random_bert_parser
from benchmarks.results_file import rounds_lines, write_rows
from benchmarks.task_counts import counted_folder, export_counts, graph_calls
from exporter.inspect import inspect_bundle
from exporter.verify.random_inputs import make_inputs


class _Growth:
    """The exported graphs and the rounds measured so far."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        names = ("layers", "hidden", "threads", "seed", "drops", "tasks")
        self._rounds = KeptRounds(folder, {name: getattr(options, name) for name in names})

    def export(self) -> Candidate:
        """Export the missing graphs."""
        options = self._options
        candidate = random_bert(options.layers, options.hidden, max(2, *options.tasks), 0, options.seed)
        export_counts(candidate, self._folder, options.tasks, options.drops)
        return candidate

    def measure(self, candidate: Candidate, shape: Shape, seconds: float) -> None:
        """Measure interleaved rounds until there are enough, or for `seconds` and at least one round."""
        if self._rounds.count(str(shape)) >= self._options.rounds or seconds <= 0:
            return
        feeds = make_inputs(candidate.plan, shape.batch, shape.length, self._options.seed)
        calls = {
            str(Point(drop, count)): call
            for count in self._options.tasks
            for drop, call in graph_calls(counted_folder(self._folder, count), self._options.threads, feeds).items()
        }
        self._rounds.measure(str(shape), calls, self._options.rounds, self._options.seed, seconds)

    def result(self, shape: Shape) -> tuple[list[Row], dict[str, list[float]]]:
        """Return the rows of one shape and the seconds of each round; both empty without a measured round."""
        raw = self._rounds.times(str(shape))
        if not raw:
            return [], {}
        times = {
            Point(drop, count): raw[str(Point(drop, count))] for drop in self._options.drops for count in self._options.tasks
        }
        flops = {}
        for count in self._options.tasks:
            for graph in inspect_bundle(counted_folder(self._folder, count), (shape.batch, shape.length)).graphs:
                flops[Point(graph.drop, count)] = sum(graph.products.values())
        return rows(shape, times, flops, self._options.layers), raw


def numbers(text: str) -> list[int]:
    """Parse a list of whole numbers such as "0,3,6", for argparse; sorted, without duplicates."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers, such as 0,3,6, found {text!r}") from None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("growth", __doc__, "1x128", 12)
    parser.add_argument("--drops", type=numbers, default=[0, 3, 6, 9], metavar="N,…", help="drops; default 0,3,6,9")
    parser.add_argument("--tasks", type=numbers, default=[1, 2, 4, 8], metavar="N,…", help="numbers of tasks; default 1,2,4,8")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep graphs and rounds in this folder, and continue from them"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        metavar="S",
        help="time limit of the measurement; 0: only export and report",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:

        def work() -> None:
            run = _Growth(options.folder or Path(scratch), options)
            candidate = run.export()
            start = time.monotonic()
            for shape in options.shapes:
                run.measure(candidate, shape, options.seconds - (time.monotonic() - start))
            _report({shape: run.result(shape) for shape in options.shapes}, candidate, options)

        return exit_status(work)


def _report(
    found: Mapping[Shape, tuple[list[Row], dict[str, list[float]]]], candidate: Candidate, options: argparse.Namespace
) -> None:
    every = [row for own, _ in found.values() for row in own]
    if not every:
        print("no round is measured yet: run the command again with --seconds")
        return
    head: dict[str, Any] = {**candidate.description, "tasks": options.tasks, "drop": options.drops, "seed": options.seed}
    head["command"] = options.command
    head["complete"] = all(own and own[0].rounds >= options.rounds for own, _ in found.values())
    raw = {str(shape): own for shape, (_, own) in found.items() if own}
    reference = str(Point(options.drops[0], options.tasks[-1]))
    path = write_rows(
        options.output, "growth", head, current_machine(options.threads), every, rounds_lines(raw, reference), continued=True
    )
    _print(every, candidate, Console() if sys.stdout.isatty() else Console(width=120))
    print(markdown(every))
    print(f"wrote {path}")


def _print(every: Sequence[Row], candidate: Candidate, console: Console) -> None:
    table = Table(title=f"{candidate.description['name']}: growth with drop and tasks; deviation = measured / predicted - 1")
    columns = (
        "shape",
        "drop",
        "tasks",
        "layers",
        "GFLOP",
        "measured ms",
        "by operations ms",
        "deviation",
        "by layers: deviation",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "shape" else "right")
    for row in every:
        cells = [str(row.drop), str(row.tasks), str(row.layers), f"{row.gflop:.1f}", f"{row.median_ms:,.1f}"]
        cells += [f"{row.by_operations_ms:,.1f}", f"{row.by_operations:+.1%}"]
        table.add_row(row.shape, *cells, "-" if row.by_layers is None else f"{row.by_layers:+.1%}")
    console.print(table)
    for shape in dict.fromkeys(row.shape for row in every):
        own = [row for row in every if row.shape == shape]
        operations = max(abs(row.by_operations) for row in own)
        layers = max((abs(row.by_layers) for row in own if row.by_layers is not None), default=0.0)
        console.print(
            f"{shape}, {own[0].rounds} rounds: largest deviation {operations:.1%} by operations, {layers:.1%} by layers"
        )


if __name__ == "__main__":
    sys.exit(main())
