"""Benchmark of the split graphs: a task over kept states, the cache of states, and trunk and branches one after the other.

`python -m benchmarks.states` uses a randomly initialized BERT. The outputs of all calls are compared first; then the calls are
timed in one run of interleaved rounds.
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
from benchmarks.contender import Call, Feeds, MismatchError, max_difference
from benchmarks.models import Candidate, random_bert
from benchmarks.options import Shape, add_device, random_bert_parser, target_of
from benchmarks.rounds import paired_ratio
from exporter import export
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
    predictor = runtime.load(folder, provider=options.device, verify=False, options=settings)
    cached = runtime.load(folder, provider=options.device, verify=False, options=settings, state_cache=_CACHE_BYTES)
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
    tolerance = tolerance_of(options.precision)
    for name in (_BOTH, _KEPT, _HIT):
        difference = max_difference(calls[name](), expected)
        if not difference <= tolerance:
            raise MismatchError(f"{name} at {shape} differs from the whole graph by {difference:.1e}: nothing was written")
    return calls


def _row(call: str, shape: Shape, own: Mapping[str, float], times: Times) -> Row:
    ratio = paired_ratio(times[call], times[_WHOLE])
    return Row(call, str(shape), len(times[call]), own["median_ms"], own["p95_ms"], ratio)


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per call, a column per shape, and in brackets the ratio to the whole graph."""
    return by_shape((row.call, row.shape, row.median_ms, row.ratio) for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("states", __doc__, "1x32,1x128,8x64", 15)
    parser.add_argument("--tasks", type=int, default=1, metavar="N", help="number of tasks; default 1")
    parser.add_argument("--drop", type=int, default=5, metavar="N", help="layers without adapters; default 5")
    add_device(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    target = target_of(options, parser)

    def prepare(scratch: Path) -> Prepared:
        candidate = random_bert(options.layers, options.hidden, max(2, options.tasks), options.drop, options.seed)
        export(
            candidate.model,
            tasks=candidate.tasks[: options.tasks],
            output=scratch / "onnx",
            split=True,
            drop=options.drop,
            **target,
        )
        head = {**candidate.description, "tasks": options.tasks, "seed": options.seed, "precision": options.precision}
        head["device"] = options.device
        title = f"{candidate.title}, {options.tasks} exported, {options.precision}, {options.device}: split graphs"
        return Prepared(title, head, lambda shape: _calls(candidate, scratch / "onnx", shape, options))

    columns = {**COLUMNS, "x whole graph": ("ratio", ".2f")}
    return CallBenchmark("states", prepare, _row, _WHOLE, columns, markdown).run(options)


if __name__ == "__main__":
    sys.exit(main())
