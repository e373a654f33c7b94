"""Runs of the graphs of a bundle on the inputs of its probe, one function for each kind of graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import ROUTE_INPUTS, Manifest, Probe, SplitEntry, VariantEntry
from runtime.bundle.probe import thinned

__all__ = ["Compared", "Counterpart", "Run", "run_on_probe"]

Array = npt.NDArray[Any]
Run = Callable[[Sequence[str], Mapping[str, Array]], Sequence[Array]]
# File name of a graph -> its session on the CPU
Counterpart = Callable[[str], Any]

_LOGITS: Final = "logits"  # the output of a routed graph
_SLOTS: Final = "slots"  # stands for a task in messages: a graph with slots has none of the bundle's
# Type of an input -> numpy's, and the size of its numbers: about that of trained weights
_TYPES: Final[Mapping[str, tuple[Any, float]]] = {
    "tensor(float)": (np.float32, 0.05),
    "tensor(float16)": (np.float16, 0.05),
    "tensor(int8)": (np.int8, 127.0),
}


@dataclass(frozen=True)
class Compared:
    """Outputs of one task.

    Attributes:
        task: name of the task.
        found: outputs of the provider.
        expected: outputs that the export verified, or those of the CPU.
    """

    task: str
    found: Sequence[Array]
    expected: Sequence[Array]


def run_on_probe(
    graph: str,
    variant: VariantEntry,
    manifest: Manifest,
    probe: Probe,
    run: Run,
    reads: Sequence[str],
    slots: int,
    on_cpu: Counterpart,
) -> Iterator[Compared]:
    """Run a graph on the inputs of a probe.

    The graph of a trunk is followed by that of the branches on the CPU, and branches by the trunk on the CPU: both then have
    logits that the export verified, and neither is opened on a device where it may not be needed. A graph with slots runs with
    invented weights, and is compared with the CPU.

    Args:
        graph: file name of the graph.
        variant: its variant.
        manifest: manifest of the bundle.
        probe: the probe.
        run: function from names of outputs and feeds to outputs.
        reads: names of the inputs.
        slots: number of slots; 0 for other graphs.
        on_cpu: opens a graph on the CPU.
    """
    split = manifest.splits.get(variant.model)
    if slots:
        feeds = probe.feeds
        if split is not None and graph == split.slots:
            names = [state.name for state in split.states]
            feeds = {**feeds, **dict(zip(names, on_cpu(split.trunk).run(names, feeds), strict=True))}
        yield _slots(graph, feeds, run, slots, on_cpu)
    elif split is not None and graph in split.graphs:
        yield from _split(graph, split, manifest, probe, run, reads, on_cpu)
    elif graph == variant.routed:
        yield from _routed(manifest, probe, run, probe.feeds)
    else:
        yield from _plain(manifest, probe, run, probe.feeds)


def _plain(manifest: Manifest, probe: Probe, run: Run, feeds: Mapping[str, Array]) -> Iterator[Compared]:
    names = [output for entry in manifest.tasks for output in entry.outputs]
    found = dict(zip(names, run(names, feeds), strict=True))
    for entry in manifest.tasks:
        yield Compared(
            entry.name, [thinned(found[name]) for name in entry.outputs], [probe.outputs[name] for name in entry.outputs]
        )


def _routed(manifest: Manifest, probe: Probe, run: Run, feeds: Mapping[str, Array]) -> Iterator[Compared]:
    """Every task for every row."""
    tasks, rows = manifest.tasks, _rows(probe)
    (logits,) = run([_LOGITS], {**feeds, **_route(rows, len(tasks))})
    for number, entry in enumerate(tasks):
        found = thinned(logits[number * rows : (number + 1) * rows, : entry.columns])
        yield Compared(entry.name, [found], [probe.outputs[name] for name in entry.outputs])


def _split(
    graph: str, split: SplitEntry, manifest: Manifest, probe: Probe, run: Run, reads: Sequence[str], on_cpu: Counterpart
) -> Iterator[Compared]:
    names = [state.name for state in split.states]
    is_trunk = graph == split.trunk
    trunk: Run = run if is_trunk else on_cpu(split.trunk).run
    given = {**probe.feeds, **dict(zip(names, trunk(names, probe.feeds), strict=True))}
    if is_trunk:
        session = on_cpu(split.branches)
        run, reads = session.run, [value.name for value in session.get_inputs()]
    feeds = {name: given[name] for name in reads if name not in ROUTE_INPUTS}
    yield from (_routed if graph == split.routed else _plain)(manifest, probe, run, feeds)


def _slots(graph: str, feeds: Mapping[str, Array], run: Run, slots: int, on_cpu: Counterpart) -> Compared:
    """Every slot for every row."""
    session = on_cpu(graph)
    known = {**feeds, **_route(len(next(iter(feeds.values()))), slots)}
    given = {each.name: known[each.name] if each.name in known else _weight(each) for each in session.get_inputs()}
    found, expected = (thinned(each([_LOGITS], given)[0]) for each in (run, session.run))
    empty = np.isneginf(expected)  # columns beyond those of a structure
    return Compared(_SLOTS, [np.where(empty & np.isneginf(found), 0, found)], [np.where(empty, 0, expected)])


def _weight(value: Any) -> Array:
    """Return weights that are the same on every machine, and different in each slot; all labels, and zeros for positions."""
    if value.type == "tensor(bool)":
        return np.ones(value.shape, np.bool_)
    wave = np.sin(np.arange(np.prod(value.shape), dtype=np.float64)).reshape(value.shape)
    dtype, size = _TYPES.get(value.type, (np.int64, 0.0))
    weights: Array = (size * wave).astype(dtype)
    return weights


def _route(rows: int, count: int) -> dict[str, Array]:
    ids = np.tile(np.arange(rows, dtype=np.int64), count), np.repeat(np.arange(count, dtype=np.int64), rows)
    return dict(zip(ROUTE_INPUTS, ids, strict=True))


def _rows(probe: Probe) -> int:
    return len(next(iter(probe.feeds.values())))
