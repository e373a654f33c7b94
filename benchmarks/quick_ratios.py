"""A fixed set of ratios that hold on any machine: `python -m benchmarks quick_ratios`, and a test of the same.

Absolute times differ between machines and with their load. Measured in the same rounds, our graph relative to itself at another
drop, and to a graph of the same operators written by hand for ONNX Runtime, does not by much. Numbers of nodes are exact.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.command import exit_status
from benchmarks.contender import Call, Feeds, MismatchError, max_difference
from benchmarks.exports import Traces, export_one_graph
from benchmarks.hand_written import hand_written
from benchmarks.models import Candidate, at_drop, random_bert
from benchmarks.rounds import measure
from benchmarks.task_counts import graph_call
from exporter.verify.random_inputs import make_inputs
from runtime.bundle import MODEL
from runtime.command_options import CommandParser

_LAYERS, _HIDDEN, _DROP, _SHAPE = 4, 128, 2, (2, 64)
_TASKS, _FEWER = 4, 2
_ROUNDS, _ATTEMPTS, _TOLERANCE = 25, 3, 1e-4


@dataclass(frozen=True)
class Band:
    """The range in which a ratio of times is.

    Attributes:
        low: smallest ratio; below it, what is measured is not what it was.
        high: largest ratio.
    """

    low: float
    high: float


# Name -> band. The first two depend on how much is shared; the others compare the same operators.
BANDS = {
    "4 tasks, drop 2 / drop 0": Band(0.30, 0.75),
    "drop 0, 2 tasks / 4 tasks": Band(0.40, 0.85),
    "drop 0, ours / written by hand": Band(0.40, 1.25),
    "drop 2, ours / written by hand": Band(0.40, 1.25),
}


@dataclass(frozen=True)
class Found:
    """Measured ratios and counted nodes.

    Attributes:
        ratios: name -> ratio of the times of the fastest rounds.
        nodes: (tasks, drop) -> number of nodes of our graph.
    """

    ratios: Mapping[str, float]
    nodes: Mapping[tuple[int, int], int]

    @property
    def outside(self) -> dict[str, float]:
        """The ratios that are not in their bands."""
        return {name: ratio for name, ratio in self.ratios.items() if not BANDS[name].low <= ratio <= BANDS[name].high}


def measure_ratios(folder: Path) -> Found:
    """Export the graphs, compare their outputs with those written by hand, and measure the ratios.

    Load may hit one of two calls for a while: what is outside its band is measured again, and only what stays outside is found.

    Args:
        folder: folder for the exports.

    Raises:
        MismatchError: the outputs of a graph differ from those of the one written by hand.
    """
    most = random_bert(_LAYERS, _HIDDEN, _TASKS, 0, 0)
    fewer = random_bert(_LAYERS, _HIDDEN, _FEWER, 0, 0)
    feeds = make_inputs(most.plan, *_SHAPE, 0)
    ours = {
        (len(candidate.tasks), candidate.plan.drop): _export(candidate, folder)
        for candidate in (most, at_drop(most, _DROP), fewer)
    }
    calls: dict[str, Call] = {f"{tasks} {drop}": graph_call(graph, 1, feeds) for (tasks, drop), graph in ours.items()}
    for drop in (0, _DROP):
        calls[f"hand {drop}"] = _by_hand(most, drop, folder / f"hand{drop}.onnx", feeds)
        difference = max_difference(calls[f"{_TASKS} {drop}"](), calls[f"hand {drop}"]())
        if not difference <= _TOLERANCE:
            raise MismatchError(f"drop {drop}: the graph written by hand differs by {difference:.1e}")
    nodes = {key: len(onnx.load(graph, load_external_data=False).graph.node) for key, graph in ours.items()}
    found = Found(_ratios(calls, 0), nodes)
    for attempt in range(1, _ATTEMPTS):
        if found.outside:
            again = _ratios(calls, attempt)
            found = Found({**found.ratios, **{name: again[name] for name in found.outside}}, nodes)
    return found


def _export(candidate: Candidate, folder: Path) -> Path:
    own = folder / f"{len(candidate.tasks)}-{candidate.plan.drop}"
    # The outputs are compared with the graph written by hand, which knows nothing of our compiler.
    export_one_graph(candidate, Traces(candidate), own, verified=False)
    return own / MODEL


def _by_hand(candidate: Candidate, drop: int, path: Path, feeds: Feeds) -> Call:
    path.write_bytes(hand_written(candidate.model, candidate.tasks, drop))
    return graph_call(path, 1, feeds)


def _ratios(calls: Mapping[str, Call], seed: int) -> dict[str, float]:
    for call in calls.values():
        call()
    times = measure(calls, _ROUNDS, seed, lambda _: None, pause=0.002)
    pairs = ((f"{_TASKS} {_DROP}", f"{_TASKS} 0"), (f"{_FEWER} 0", f"{_TASKS} 0"))
    hands = ((f"{_TASKS} 0", "hand 0"), (f"{_TASKS} {_DROP}", f"hand {_DROP}"))
    # The fastest rounds, because other programs only make a round slower.
    fastest = {name: min(each) for name, each in times.items()}
    return {name: fastest[own] / fastest[other] for name, (own, other) in zip(BANDS, (*pairs, *hands), strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    CommandParser("python -m benchmarks quick_ratios", __doc__, "exit status: 0 all in their bands; 1 not\n").parse_args(
        arguments
    )
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        try:
            found = measure_ratios(Path(folder))
        except MismatchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for name, ratio in found.ratios.items():
        band = BANDS[name]
        print(f"{name}: {ratio:.2f}, band {band.low:.2f} to {band.high:.2f}{'  OUTSIDE' if name in found.outside else ''}")
    for (tasks, drop), nodes in found.nodes.items():
        print(f"{tasks} tasks, drop {drop}: {nodes} nodes")
    return int(bool(found.outside))


if __name__ == "__main__":
    sys.exit(exit_status(main))
