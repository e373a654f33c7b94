"""Benchmark of the split graphs: a task over kept states, the cache of states, and trunk and branches one after the other.

`python -m benchmarks.states` uses a randomly initialized BERT. The outputs of all calls are compared first; then the calls are
timed in one run of interleaved rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import runtime
from benchmarks.call_rows import by_shape, summary, timed
from benchmarks.checks import TOLERANCE
from benchmarks.machine import Machine, current_machine
from benchmarks.models import Candidate, random_bert
from benchmarks.options import Shape, random_bert_parser
from benchmarks.results_file import write_rows
from benchmarks.rounds import paired_ratio
from benchmarks.variant import Call, Feeds, MismatchError, max_difference
from exporter import ExportError, export
from exporter.targets import TOLERANCES
from exporter.verify.random_inputs import make_inputs

_WHOLE = "run(), the whole graph"
_BOTH = "run_trunk(), then run_branches()"
_KEPT = "run_branches() over kept states"
_MISS = "run() with a cache, no text known"
_HIT = "run() with a cache, all texts known"
_CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Row:
    """Times of one call at one shape.

    Attributes:
        call: name of the call.
        shape: batch x length.
        rounds: number of rounds.
        median_ms: median time in milliseconds.
        p95_ms: 95th percentile of the time in milliseconds.
        ratio: median over the rounds of (time) / (time of the whole graph).
    """

    call: str
    shape: str
    rounds: int
    median_ms: float
    p95_ms: float
    ratio: float


def _calls(candidate: Candidate, folder: Path, shape: Shape, options: argparse.Namespace) -> dict[str, Call]:
    feeds: Feeds = make_inputs(candidate.plan, shape.batch, shape.length, options.seed, masks="none")
    settings = runtime.Options(threads=options.threads)
    predictor = runtime.load(folder, provider="cpu", verify=False, options=settings)
    cached = runtime.load(folder, provider="cpu", verify=False, options=settings, state_cache=_CACHE_BYTES)
    states = predictor.run_trunk(feeds)
    fresh = iter(range(10**9))

    def unknown() -> Feeds:
        """Other texts in each call: the first token counts up."""
        number = next(fresh)
        ids = feeds["input_ids"].copy()
        ids[:, 0], ids[:, -1] = number % 997, number // 997 % 997
        return {**feeds, "input_ids": ids}

    calls: dict[str, Call] = {
        _WHOLE: lambda: list(predictor.run(feeds).values()),
        _BOTH: lambda: list(predictor.run_branches(predictor.run_trunk(feeds)).values()),
        _KEPT: lambda: list(predictor.run_branches(states).values()),
        _MISS: lambda: list(cached.run(unknown()).values()),
        _HIT: lambda: list(cached.run(feeds).values()),
    }
    expected = calls[_WHOLE]()
    tolerance = TOLERANCE if options.precision == "fp32" else TOLERANCES[options.precision]
    for name in (_BOTH, _KEPT, _HIT):
        difference = max_difference(calls[name](), expected)
        if not difference <= tolerance:
            raise MismatchError(f"{name} at {shape} differs from the whole graph by {difference:.1e}: nothing was written")
    return calls


def _measure(calls: dict[str, Call], shape: Shape, options: argparse.Namespace) -> list[Row]:
    times = timed(calls, shape, options.rounds, options.seed)
    return [
        Row(
            call=name,
            shape=str(shape),
            rounds=options.rounds,
            **summary(own),
            ratio=paired_ratio(own, times[_WHOLE]),
        )
        for name, own in times.items()
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per call, a column per shape, and in brackets the ratio to the whole graph."""
    return by_shape((row.call, row.shape, row.median_ms, row.ratio) for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("states", __doc__, "1x32,1x128,8x64", 15)
    parser.add_argument("--tasks", type=int, default=1, metavar="N", help="number of tasks; default 1")
    parser.add_argument("--drop", type=int, default=5, metavar="N", help="layers without adapters; default 5")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="precision of the export; default fp32")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    machine = current_machine(options.threads)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            candidate = random_bert(options.layers, options.hidden, max(2, options.tasks), options.drop, options.seed)
            tasks = candidate.tasks[: options.tasks]
            folder = Path(scratch) / "onnx"
            print("exporting …", file=sys.stderr, flush=True)
            target = "portable" if options.precision == "fp32" else "cpu"
            export(
                candidate.model,
                tasks=tasks,
                output=folder,
                split=True,
                drop=options.drop,
                target=target,
                precision=options.precision,
            )
            for shape in options.shapes:
                rows += _measure(_calls(candidate, folder, shape, options), shape, options)
    except (ExportError, MismatchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, MismatchError) else 2
    _report(rows, machine, candidate, options)
    return 0


def _report(rows: Sequence[Row], machine: Machine, candidate: Candidate, options: argparse.Namespace) -> None:
    description = {**candidate.description, "tasks": options.tasks, "seed": options.seed, "precision": options.precision}
    path = write_rows(options.output, "states", description, machine, rows)
    table = Table(title=f"{candidate.title}, {options.tasks} exported, {options.precision}: split graphs")
    for column in ("call", "shape", "median ms", "p95", "x whole graph"):
        table.add_column(column, justify="left" if column in ("call", "shape") else "right", no_wrap=True)
    for row in rows:
        table.add_row(row.call, row.shape, f"{row.median_ms:,.1f}", f"{row.p95_ms:,.1f}", f"{row.ratio:.2f}")
    (Console() if sys.stdout.isatty() else Console(width=120)).print(table)
    print(markdown(rows))
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
