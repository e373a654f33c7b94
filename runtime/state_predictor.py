"""Inference in two steps: the trunk from inputs to states, and tasks from states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.array_predictor import Answers, ArrayPredictor
from runtime.bundle import SplitEntry, TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.requests import TaskSelection, check_drop
from runtime.errors import InputError
from runtime.ort.routed_graph import Ids, own_columns
from runtime.ort.split_graph import SplitGraph
from runtime.slots.hot_entry import added_names
from runtime.states.padding import Padding
from runtime.states.split_runs import LookUp, SplitRuns
from runtime.states.state_cache import CacheStatistics, StateCache
from runtime.states.trunk_states import TrunkStates
from runtime.text.encode import BatchLimits, batch_limits
from runtime.text.predict_options import PredictOptions


@dataclass(frozen=True, eq=False)
class StatePredictor(ArrayPredictor):
    """The part of a predictor that keeps states of the trunk; for bundles that were exported with `--split`."""

    _state_cache: StateCache | None

    def run_trunk(self, feeds: Mapping[str, npt.NDArray[Any]], drop: int | None = None) -> TrunkStates:
        """Compute the states of the trunk, to run tasks on them later.

        Args:
            feeds: inputs, as for `run`.
            drop: drop of the variant, whose lowest layers are the trunk; None for the first one that is split.

        Returns:
            The states of each row.

        Raises:
            InputError: as for `run`; or the bundle was exported without `--split`.
        """
        runs = self._split_runs(drop)
        return TrunkStates(runs.graph.entry.states, tuple(runs.states(self._check(feeds))), runs.drop)

    def run_branches(
        self,
        states: TrunkStates,
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        batch_size: int | None = None,
        cancel: Cancellation | None = None,
    ) -> Answers:
        """Compute tasks from states of the trunk, that is, everything above the layers that all tasks share.

        Args:
            states: states that this bundle computed, or another one with the same trunk.
            tasks: names of the tasks; None for all tasks.
            drop: drop of the variant; None for the one whose states these are.
            batch_size: maximum number of texts of a batch; texts of similar length share a batch.
            cancel: handle that can cancel the call from another thread.

        Returns:
            Logits by name, as in `run`, in the order of the states. Shorter texts are padded with zeros where a task has logits
            for each token.

        Raises:
            InputError: states of another trunk, an unknown task or drop, no states, or a bundle that was exported without
                `--split`.
            CancelledError: the call was cancelled through `cancel`.
        """
        selection = self._select(tasks)
        if not isinstance(states, TrunkStates) or not len(states):
            raise InputError(f"states: expected TrunkStates of at least one text, found {states!r:.100}")
        runs = self._split_runs(self._drop_of(states) if drop is None else drop)
        runs.check(states)
        if not runs.computes(selection.entries):
            hot = ", ".join(added_names(selection.entries))
            raise InputError(
                f"tasks: the bundle has no graph from the states of drop {runs.drop} to added tasks ({hot}): call "
                "run() or predict() for them, or export it again"
            )
        limits = self._limits
        most = PredictOptions(batch_size=batch_size).batch_size or limits.rows
        found: list[Sequence[npt.NDArray[Any]]] = [()] * len(states)
        for numbers, values in runs.batches(states.rows, most, limits.tokens, limits.call):
            logits = self._branches(runs, values, selection, len(numbers), cancel)
            for position, number in enumerate(numbers):
                found[number] = [array[position] for array in logits]
        arrays = (_padded(column, runs.padding.left) for column in zip(*found, strict=True))
        answers = Answers(zip(selection.result_names, arrays, strict=True))
        answers.drop = runs.drop
        return answers

    @property
    def _limits(self) -> BatchLimits:
        return batch_limits(self.provider)

    @property
    def state_cache(self) -> CacheStatistics | None:
        """Contents and hits of the cache of trunk states; None without a cache."""
        return None if self._state_cache is None else self._state_cache.statistics

    def _drop_of(self, states: TrunkStates) -> int | None:
        """Return the drop whose states these are; None for states of other trunks, so that the check names the difference."""
        found = [
            drop
            for drop, runs in self._splits.items()
            if {state.identity for state in runs.graph.entry.states} <= set(states.identities)
        ]
        return states.drop if states.drop in found else next(iter(found), None)

    def _split_runs(self, drop: int | None) -> SplitRuns:
        check_drop(drop, self.drops, "loaded")
        if not self._splits:
            raise InputError("this bundle has no graphs of the trunk; export it again with `python -m exporter --split`")
        drop = next(iter(self._splits)) if drop is None else drop
        if drop not in self._splits:
            raise InputError(
                f"drop: the trunk at drop {drop} ends before the first layer, so that it was not split; use "
                f"{', '.join(map(str, self._splits))}"
            )
        return self._splits[drop]

    def _padding(self) -> tuple[bool, int | None]:
        """Return whether texts are padded on the left, and the id of the padding token if it is known."""
        return False, None

    @cached_property
    def _splits(self) -> dict[int, SplitRuns]:
        left, pad_id = self._padding()
        # A trunk may compute the states of other drops on its way.
        states = [state for entry in self.manifest.splits.values() for state in entry.states]
        entries = {drop: entry for drop in self.drops if (entry := self.manifest.split(drop)) is not None}

        def padding(*read: SplitEntry) -> Padding:
            keeps = self.manifest.padding_counts or any(entry.padding_counts for entry in read)
            keeps = keeps or (pad_id is None and any("input_ids" in entry.inputs for entry in read))
            return Padding.of(self.manifest.inputs, states, left, pad_id, keeps)

        return {
            drop: SplitRuns(SplitGraph(self._bundle, entry, self.manifest), padding(entry), drop, padding(*entries.values()))
            for drop, entry in entries.items()
        }

    def _look_up(self, feeds: Mapping[str, npt.NDArray[Any]], drop: int, entries: Sequence[TaskEntry]) -> LookUp | None:
        if self._state_cache is None or drop not in self._splits or not self._splits[drop].computes(entries):
            return None
        return self._splits[drop].look_up(feeds, self._state_cache)

    def _branches(
        self,
        runs: SplitRuns,
        values: Mapping[str, npt.NDArray[Any]],
        selection: TaskSelection,
        rows: int,
        cancel: Cancellation | None,
    ) -> Sequence[npt.NDArray[Any]]:
        """Compute tasks from the states of a batch of `rows` texts."""
        if self._hot is not None and added_names(selection.entries):
            given, entries = runs.graph.given_to_slots(values), self._hot.in_slots(selection.entries)
            return self._hot.graphs[runs.drop].tasks(given, entries, cancel, runs.graph.entry.slots)
        logits = runs.graph.branches(values, selection.entries, selection.outputs, cancel)
        self._check_outputs(selection.outputs, [array.shape for array in logits], rows)
        return logits

    def _run_graph(
        self,
        selection: TaskSelection,
        feeds: Mapping[str, npt.NDArray[Any]],
        drop: int,
        cancel: Cancellation | None,
        cached: LookUp | None,
    ) -> Sequence[npt.NDArray[Any]]:
        if cached is None or self._state_cache is None:
            return super()._run_graph(selection, feeds, drop, cancel, cached)
        runs = self._splits[drop]
        values = runs.values(feeds, cached, self._state_cache, cancel)
        return self._branches(runs, values, selection, len(next(iter(feeds.values()))), cancel)

    def _compute_rows(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        entries: Sequence[TaskEntry],
        row_ids: Ids,
        drop: int,
        cached: LookUp | None,
    ) -> list[npt.NDArray[Any]]:
        if cached is None or self._state_cache is None or not self._splits[drop].graph.entry.routed:
            return super()._compute_rows(feeds, entries, row_ids, drop, cached)
        runs = self._splits[drop]
        values = runs.values(feeds, cached, self._state_cache)
        if self._hot is not None and added_names(entries):
            given = runs.graph.given_to_slots(values)
            hot = self._hot.in_slots(entries)
            return self._hot.graphs[drop].rows(given, hot, row_ids, branches=runs.graph.entry.slots)
        logits = runs.graph.routed(values, row_ids, self._routed[drop].numbers(entries))
        return own_columns(entries, logits)


def _padded(arrays: Sequence[npt.NDArray[Any]], left: bool) -> npt.NDArray[Any]:
    """Join the logits of texts, with zeros where texts are shorter."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    if all(array.shape == shape for array in arrays):
        return np.stack(arrays)
    joined = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for number, array in enumerate(arrays):
        starts = [whole - own if left else 0 for own, whole in zip(array.shape, shape, strict=True)]
        columns = [slice(start, start + own) for start, own in zip(starts, array.shape, strict=True)]
        places: tuple[int | slice, ...] = (number, *columns)
        joined[places] = array
    return joined
