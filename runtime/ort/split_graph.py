"""The split graphs of a variant: the trunk from inputs to states, and the branches from states to logits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from runtime.bundle import ROUTE_INPUTS, Manifest, SplitEntry, TaskEntry
from runtime.cancel import Cancellation
from runtime.errors import BundleError
from runtime.ort.open_bundle import OpenBundle
from runtime.ort.routed_graph import LOGITS, Array, Ids, checked_logits, every_row, own_columns

_TYPES: Final = {"float32": "tensor(float)", "float16": "tensor(float16)"}


@dataclass(frozen=True, eq=False)
class SplitGraph:
    """The split graphs of one variant of an open bundle.

    Attributes:
        bundle: open sessions.
        entry: the manifest's entry.
        manifest: manifest of the bundle.
    """

    bundle: OpenBundle
    entry: SplitEntry
    manifest: Manifest
    _read: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the states and inputs that the branches read."""
        return (*self.entry.inputs, *(state.name for state in self.entry.states))

    def _given(self, graph: str, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the values that a graph reads: the routed graph may read other ones than that of all tasks."""
        if graph not in self._read:
            inputs = [value.name for value in self.bundle.here().sessions[graph].get_inputs()]
            self._read[graph] = tuple(name for name in inputs if name in self.reads)
        return {name: values[name] for name in self._read[graph]}

    def given_to_slots(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the states and inputs that the graph of the branches with slots reads.

        Args:
            values: states and inputs of a batch, at least those of `reads`.
        """
        return self._given(self.entry.slots, values)

    def trunk(self, feeds: Mapping[str, Array], cancel: Cancellation | None = None, passing: bool = False) -> dict[str, Array]:
        """Compute the states of a batch.

        Args:
            feeds: checked inputs.
            cancel: handle that can cancel the run from another thread.
            passing: whether to return the states of other variants, too, which are computed on the way.

        Returns:
            Name of a state -> its array.
        """
        names = [*(state.name for state in self.entry.states), *(self.entry.passing if passing else ())]
        return dict(zip(names, self.bundle.run(self.entry.trunk, names, feeds, cancel), strict=True))

    def branches(
        self,
        values: Mapping[str, Array],
        entries: Sequence[TaskEntry],
        outputs: Sequence[str],
        cancel: Cancellation | None = None,
    ) -> Sequence[Array]:
        """Compute tasks from states; a selection of them by the routed graph, if there is one.

        Args:
            values: states and inputs of a batch, at least those of `reads`.
            entries: manifest entries of the tasks.
            outputs: names of their outputs in the graph.
            cancel: handle that can cancel the run from another thread.
        """
        if not self.entry.routed or len(entries) == len(self.manifest.tasks):
            return self.bundle.run(self.entry.branches, outputs, self._given(self.entry.branches, values), cancel)
        numbers = {entry.name: number for number, entry in enumerate(self.manifest.tasks)}
        batch = len(values[self.entry.states[0].name])
        row_ids, task_ids = every_row(np.array([numbers[entry.name] for entry in entries], np.int64), batch)
        return own_columns(entries, self.routed(values, row_ids, task_ids, cancel).reshape(len(entries), batch, -1))

    def routed(self, values: Mapping[str, Array], row_ids: Ids, task_ids: Ids, cancel: Cancellation | None = None) -> Array:
        """Compute one task per row of `row_ids`; see `RoutedGraph`."""
        route = dict(zip(ROUTE_INPUTS, (row_ids, task_ids), strict=True))
        given = self._given(self.entry.routed, values)
        (logits,) = self.bundle.run(self.entry.routed, [LOGITS], {**given, **route}, cancel)
        return checked_logits(self.entry.routed, logits, len(row_ids), max(entry.columns for entry in self.manifest.tasks))


def check_split_graph(session: Any, path: Path, manifest: Manifest) -> None:
    """Check the inputs and outputs of a graph of the trunk or of branches.

    Args:
        session: InferenceSession of the graph.
        path: path of the graph, for the message.
        manifest: manifest with the states.

    Raises:
        BundleError: the graph does not match the manifest.
    """
    entry = next(each for each in manifest.splits.values() if path.name in each.graphs)
    if problems := list(_problems(session, path.name, entry, manifest)):
        raise BundleError(f"{path}: {'; '.join(problems)}; export it again with `python -m exporter --split --output DIR`")


def _problems(session: Any, graph: str, entry: SplitEntry, manifest: Manifest) -> Iterator[str]:
    inputs = {value.name: value.type for value in session.get_inputs()}
    outputs = {value.name: value.type for value in session.get_outputs()}
    if graph == entry.trunk:
        yield from _differences("inputs", [each.name for each in manifest.inputs], inputs)
        yield from _differences("outputs", [*(state.name for state in entry.states), *entry.passing], outputs)
        return
    if graph == entry.routed:
        inputs = {name: kind for name, kind in inputs.items() if name not in ROUTE_INPUTS}
    yield from read_problems(inputs, entry)
    names = [LOGITS] if graph == entry.routed else [name for task in manifest.tasks for name in task.outputs]
    yield from _differences("outputs", names, outputs)


def read_problems(inputs: Mapping[str, str], entry: SplitEntry) -> Iterator[str]:
    """Yield a message for each input of a graph of branches that the manifest does not list.

    Args:
        inputs: name -> type as ONNX Runtime names it, without those that select rows and tasks.
        entry: the manifest's entry of the split variant.
    """
    states = {state.name: _TYPES[state.dtype] for state in entry.states}
    if wrong := [f"{name} {kind}" for name, kind in inputs.items() if states.get(name, kind) != kind]:
        yield f"inputs: the manifest lists {states}, the graph has {', '.join(wrong)}"
    if set(inputs) - {*entry.inputs, *states}:
        yield from _differences("inputs", [*entry.inputs, *states], inputs)


def _differences(what: str, expected: Sequence[str], found: Mapping[str, str]) -> Iterator[str]:
    if sorted(expected) != sorted(found):
        yield f"{what}: the manifest lists {sorted(expected)}, the graph has {sorted(found)}"
