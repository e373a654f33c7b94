"""The graph with slots of one drop, and the calls that it runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from runtime.bundle import ROUTE_INPUTS, Manifest
from runtime.bundle.manifest import EXPORT_AGAIN
from runtime.cancel import Cancellation
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.ort.check_graph import input_problems, type_problems
from runtime.ort.forks import PerProcess
from runtime.ort.known_providers import CUDA, TENSORRT
from runtime.ort.open_bundle import OpenBundle
from runtime.ort.routed_graph import LOGITS, Array, Ids, checked_logits
from runtime.ort.split_graph import read_problems
from runtime.slots.hot_entry import HotEntry
from runtime.slots.layout import SlotLayout
from runtime.slots.table import SlotTable

__all__ = ["SlotsGraph", "check_slots_graph"]


def check_slots_graph(session: Any, path: Path, manifest: Manifest, layout: SlotLayout) -> None:
    """Check the inputs and outputs of a graph with slots, the whole one or that of the branches.

    Raises:
        BundleError: the graph does not match the manifest or its layout; the message names every input that differs.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    problems = [f"input {name}: expected one of the graph" for name in ROUTE_INPUTS if inputs.pop(name, None) is None]
    for weight in layout.weights:
        value = inputs.pop(weight.name, None)
        if value is None or list(value.shape) != [layout.slots, *weight.shape]:
            found = "none" if value is None else list(value.shape)
            problems.append(f"input {weight.name}: expected {[layout.slots, *weight.shape]}, found {found}")
    split = next((entry for entry in manifest.splits.values() if entry.slots == path.name), None)
    if split is None:
        problems += input_problems(inputs, manifest)
    else:
        problems += read_problems({name: value.type for name, value in inputs.items()}, split)
    problems += type_problems({value.name: value.type for value in session.get_outputs()})
    if [value.name for value in session.get_outputs()] != [LOGITS]:
        problems.append(f"outputs: expected {LOGITS}, found {[value.name for value in session.get_outputs()]}")
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems[:10])}; {EXPORT_AGAIN}")


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of a call whose tasks fit into the slots at the same time."""

    entries: list[HotEntry]
    rows: list[int]


class SlotsGraph:
    """Runs rows of tasks, each of which is in a slot during the run."""

    def __init__(self, bundle: OpenBundle, graph: str, drop: int, layout: SlotLayout) -> None:
        """Allocate the slots.

        Args:
            bundle: open sessions.
            graph: file name of the graph.
            drop: drop of the graph.
            layout: its layout.
        """
        # A fork gets separate slots: those of its parent may be in use by calls that do not exist there.
        self._tables = PerProcess(partial(SlotTable, layout))
        self.layout = layout
        self._bundle, self._graph, self._drop = bundle, graph, drop
        on_gpu = bundle.provider in (CUDA, TENSORRT)
        self._copies = _DeviceCopies(self.table, bundle.device) if on_gpu else None

    @property
    def table(self) -> SlotTable:
        """The slots of this process."""
        return self._tables.get()

    def rows(
        self,
        feeds: Mapping[str, Array],
        entries: Sequence[HotEntry],
        row_ids: Ids,
        cancel: Cancellation | None = None,
        branches: str = "",
    ) -> list[Array]:
        """Compute one task per row. A call with more tasks of one structure than slots is divided.

        Args:
            feeds: checked inputs; for the branches, the values that they read.
            entries: task of each result row.
            row_ids: input row of each result row.
            cancel: handle that can cancel the run from another thread.
            branches: file name of the graph of the branches, which is run in place of the whole one.

        Returns:
            Logits [columns of the task] per result row.

        Raises:
            AdapterDropError: as for `OpenBundle.run`, or the file of a task has changed.
        """
        self._bundle.here()  # before waiting for a slot: in a forked process, the provider may be unusable
        results: list[Array | None] = [None] * len(entries)
        for part in self._parts(entries):
            weights = [entry.weights[self._drop] for entry in part.entries]
            with self.table.hold(weights, cancel) as slots:
                slot_of = {entry: slots[own] for entry, own in zip(part.entries, weights, strict=True)}
                task_ids = np.array([slot_of[entries[row]] for row in part.rows], np.int64)
                logits = self._run(branches or self._graph, feeds, row_ids[part.rows], task_ids, cancel)
            for row, found in zip(part.rows, logits, strict=True):
                results[row] = found[: entries[row].columns].copy()
        return [row for row in results if row is not None]

    def _parts(self, entries: Sequence[HotEntry]) -> Iterator[_Part]:
        by_task: dict[HotEntry, list[int]] = {}
        for row, entry in enumerate(entries):
            by_task.setdefault(entry, []).append(row)
        counts = [0] * len(self.layout.groups)
        part = _Part([], [])
        for entry, rows in by_task.items():
            group = entry.weights[self._drop].group
            if counts[group] == self.layout.slots:
                yield part
                part, counts = _Part([], []), [0] * len(counts)
            counts[group] += 1
            part.entries.append(entry)
            part.rows.extend(rows)
        yield part

    def tasks(
        self,
        feeds: Mapping[str, Array],
        entries: Sequence[HotEntry],
        cancel: Cancellation | None = None,
        branches: str = "",
    ) -> list[Array]:
        """Compute several tasks for all rows.

        Args:
            feeds: as for `rows`.
            entries: the tasks.
            cancel: as for `rows`.
            branches: as for `rows`.

        Returns:
            Logits [batch, columns of the task] per entry.

        Raises:
            AdapterDropError: as for `rows`.
        """
        batch = len(next(iter(feeds.values())))
        row_ids = np.tile(np.arange(batch, dtype=np.int64), len(entries))
        rows = self.rows(feeds, [entry for entry in entries for _ in range(batch)], row_ids, cancel, branches)
        return [np.stack(rows[start : start + batch]) for start in range(0, len(rows), batch)]

    def _run(self, graph: str, feeds: Mapping[str, Array], row_ids: Ids, task_ids: Ids, cancel: Cancellation | None) -> Array:
        weights = self.table.arrays if self._copies is None else self._copies.current()
        given = {**feeds, **dict(zip(ROUTE_INPUTS, (row_ids, task_ids), strict=True))}
        (logits,) = self._bundle.run(graph, [LOGITS], given, cancel, weights)
        return checked_logits(graph, logits, len(row_ids), self.layout.columns)


class _DeviceCopies:
    """Copies of the slots in the memory of a GPU, made again for a group after one of its slots was written.

    Calls in flight keep the copies with which they began.
    """

    def __init__(self, table: SlotTable, device: int) -> None:
        self._table, self._device = table, device
        self._lock = Lock()
        self._written: tuple[int, ...] = (-1,) * len(table.layout.groups)
        self._values: Mapping[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """Return input -> OrtValue; the caller holds its slots, so that the copies contain them."""
        with self._lock:
            # Counted first: a write during the copy is then seen by the next call, which is the one that needs it.
            if (written := self._table.writes()) != self._written:
                values = dict(self._values)
                for group, (now, before) in enumerate(zip(written, self._written, strict=True)):
                    for name in self._table.names(group) if now != before else ():
                        values[name] = ort.OrtValue.ortvalue_from_numpy(self._table.arrays[name], "cuda", self._device)
                self._values, self._written = values, written
            return self._values
