"""Benchmark of the routed graph: one task per row, and a selection of tasks, against the export of a single task.

`python -m benchmarks.routed` uses a randomly initialized BERT with eight adapters. The outputs of all calls are compared first;
then the calls are timed in one run of interleaved rounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import runtime
from benchmarks.call_rows import COLUMNS, CallBenchmark, Prepared, Times, by_shape
from benchmarks.checks import tolerance_of
from benchmarks.contender import Call, Feeds, MismatchError, Outputs, max_difference
from benchmarks.models import Candidate, random_bert
from benchmarks.options import Shape, add_device, random_bert_parser, target_of, whole
from benchmarks.rounds import paired_ratio
from exporter import export
from exporter.verify.random_inputs import make_inputs

_SINGLE = "one task, exported alone"
_ONE = "run_routed(), one task for all rows"
_MIXED = "run_routed(), another task for each row"
_SUBSET = "run(tasks=…), one task"
_HALF = "run(tasks=…), half of the tasks"
_MOST = "run(tasks=…), all tasks but one"
_ALL = "run(), all tasks"


@dataclass(frozen=True)
class Row:
    """Times of one call at one shape.

    Attributes:
        call: name of the call.
        shape: batch x length.
        rounds: number of rounds.
        median_ms: median time in milliseconds.
        p95_ms: 95th percentile of the time in milliseconds.
        ratio: median over the rounds of (time) / (time of the export of a single task).
        versus_one: median over the rounds of (time) / (time of the routed graph with one task for all rows).
    """

    call: str
    shape: str
    rounds: int
    median_ms: float
    p95_ms: float
    ratio: float
    versus_one: float


def _calls(candidate: Candidate, single: Path, folder: Path, shape: Shape, options: argparse.Namespace) -> dict[str, Call]:
    feeds: Feeds = make_inputs(candidate.plan, shape.batch, shape.length, options.seed)
    predictor = runtime.load(folder, provider=options.device, threads=options.threads, verify=False)
    only = runtime.load(single, provider=options.device, threads=options.threads, verify=False)
    names = candidate.tasks
    first, half = names[0], names[: len(names) // 2]
    mixed = [names[row % len(names)] for row in range(shape.batch)]

    calls: dict[str, Call] = {
        _SINGLE: lambda: list(only.run(feeds).values()),
        _ONE: lambda: predictor.run_routed(feeds, [first] * shape.batch),
        _MIXED: lambda: predictor.run_routed(feeds, mixed),
        _SUBSET: lambda: list(predictor.run(feeds, [first]).values()),
        _HALF: lambda: list(predictor.run(feeds, half).values()),
        _MOST: lambda: list(predictor.run(feeds, names[1:]).values()),
        _ALL: lambda: list(predictor.run(feeds).values()),
    }
    every = predictor.run(feeds)
    # In int8, quantization ranges depend on the whole batch, which differs between the calls.
    tolerance = tolerance_of(options.precision)
    expected: dict[str, Outputs] = {
        _SINGLE: [every[first]],
        _ONE: list(every[first]),
        _MIXED: [every[name][row] for row, name in enumerate(mixed)],
        _SUBSET: [every[first]],
        _HALF: [every[name] for name in half],
        _MOST: [every[name] for name in names[1:]],
    }
    for name, outputs in expected.items():
        difference = max_difference(calls[name](), outputs)
        if not difference <= tolerance:
            raise MismatchError(
                f"{name} at {shape} differs from the graph of all tasks by {difference:.1e}: nothing was written"
            )
    return calls


def _row(call: str, shape: Shape, own: Mapping[str, float], times: Times) -> Row:
    ratios = (paired_ratio(times[call], times[other]) for other in (_SINGLE, _ONE))
    return Row(call, str(shape), len(times[call]), own["median_ms"], own["p95_ms"], *ratios)


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per call, a column per shape, and in brackets the ratio to the export of one task."""
    return by_shape((row.call, row.shape, row.median_ms, row.ratio) for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("routed", __doc__, "1x128,8x32,8x128", 9)
    parser.add_argument("--tasks", type=whole(2), default=8, metavar="N", help="number of tasks, at least 2; default 8")
    parser.add_argument("--drop", type=int, default=5, metavar="N", help="layers without adapters; default 5")
    add_device(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    target = target_of(options, parser)

    def prepare(scratch: Path) -> Prepared:
        candidate = random_bert(options.layers, options.hidden, options.tasks, options.drop, options.seed)
        single, folder = scratch / "single", scratch / "all"
        same = {"drop": options.drop, **target}
        export(candidate.model, tasks=candidate.tasks[:1], output=single, **same)
        export(candidate.model, output=folder, routed=True, **same)
        head = {**candidate.description, "seed": options.seed, "precision": options.precision}
        head["device"] = options.device
        title = f"{candidate.title}, {options.precision}, {options.device}: the routed graph"
        return Prepared(title, head, lambda shape: _calls(candidate, single, folder, shape, options))

    columns = {**COLUMNS, "x one task": ("ratio", ".2f"), "x one routed task": ("versus_one", ".2f")}
    return CallBenchmark("routed", prepare, _row, _SINGLE, columns, markdown).run(options)


if __name__ == "__main__":
    sys.exit(main())
