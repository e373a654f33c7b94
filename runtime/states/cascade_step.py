"""The steps of a cascade, of which each reuses the states that a trunk computed for the variants before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.requests import TaskSelection
from runtime.states.split_runs import SplitRuns
from runtime.states.trunk_states import Row
from runtime.text.encode import Batch, BatchLimits, TextEncoder
from runtime.text.predict import Window, predict
from runtime.text.predict_options import PredictOptions
from runtime.text.prediction import Prediction
from runtime.text.tokens import Tokens

__all__ = ["CascadeStep"]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
# (drop, names of the tasks, feeds, computation of the logits) -> the logits, computed inside the hooks
Observe: TypeAlias = Callable[[int, Sequence[str], Feeds, Callable[[], Sequence[Array]]], Sequence[Array]]


@dataclass(frozen=True, eq=False)
class CascadeStep:
    """Predicts some tasks for some texts with one drop, for `Cascade.run`.

    Attributes:
        windows: tokens of the texts.
        encoder: encoder of the bundle.
        options: options of the call.
        splits: drop -> its graphs of the trunk and the branches; without an entry, the whole graph is used.
        limits: limits of a batch of states.
        batches: divides tokens into batches.
        run_whole: (tasks, feeds, drop) -> logits of the whole graph.
        run_branches: (graphs, values, tasks, number of texts) -> logits of the branches.
        observe: computes the logits of the branches inside the hooks.
        where: provider and precision, for messages.
        cancel: handle that can cancel the call from another thread.
    """

    windows: Sequence[Window]
    encoder: TextEncoder
    options: PredictOptions
    splits: Mapping[int, SplitRuns]
    limits: BatchLimits
    batches: Callable[[Sequence[Tokens]], Iterator[Batch]]
    run_whole: Callable[[TaskSelection, Feeds, int], Mapping[str, Array]]
    run_branches: Callable[[SplitRuns, Feeds, TaskSelection, int], Sequence[Array]]
    observe: Observe
    where: str
    cancel: Cancellation | None = None
    _kept: dict[int, Row] = field(default_factory=dict)  # number of a text -> its states

    def __call__(self, drop: int, rows: list[int], entries: list[TaskEntry]) -> dict[str, dict[int, Prediction]]:
        """Return task -> number of a text -> prediction.

        Args:
            drop: drop of the variant.
            rows: numbers of the texts.
            entries: manifest entries of the tasks.
        """
        runs = self.splits.get(drop)
        if runs is not None and not runs.computes(entries):
            runs = None
        part = [replace(self.windows[row], index=number) for number, row in enumerate(rows)]
        if runs is None:
            batches, run = self.batches([window.tokens for window in part]), self._whole(drop, entries)
        elif all(runs.reads(self._kept.get(row, {})) for row in rows):
            batches, run = self._from_states(runs, rows), self._branches(runs, drop, entries, lambda feeds: feeds)
        else:
            batches, run = self._from_texts(runs, drop, rows, part, entries)
        found = predict(part, batches, run, entries, self.encoder, self.options, self.where)
        return {name: dict(zip(rows, own, strict=True)) for name, own in found.items()}

    def _whole(self, drop: int, entries: Sequence[TaskEntry]) -> Callable[[Feeds], tuple[Mapping[str, Array], int]]:
        selection = TaskSelection.of(tuple(entries))
        return lambda feeds: (self.run_whole(selection, feeds, drop), drop)

    def _branches(
        self, runs: SplitRuns, drop: int, entries: Sequence[TaskEntry], values_of: Callable[[Feeds], Feeds]
    ) -> Callable[[Feeds], tuple[Mapping[str, Array], int]]:
        """Return the run of the branches, on the values that `values_of` makes of the feeds."""
        selection = TaskSelection.of(tuple(entries))

        def run(feeds: Feeds) -> tuple[Mapping[str, Array], int]:
            logits = self.observe(
                drop,
                [entry.name for entry in entries],
                feeds,
                lambda: self.run_branches(runs, values_of(feeds), selection, len(next(iter(feeds.values())))),
            )
            return dict(zip(selection.result_names, logits, strict=True)), drop

        return run

    def _from_states(self, runs: SplitRuns, rows: Sequence[int]) -> Iterator[Batch]:
        most = self.limits.rows if self.options.batch_size is None else self.options.batch_size
        states = [self._kept[row] for row in rows]
        for chosen, values in runs.batches(states, most, self.limits.tokens, self.limits.call):
            yield Batch(tuple(chosen), values)

    def _from_texts(
        self, runs: SplitRuns, drop: int, rows: Sequence[int], part: Sequence[Window], entries: Sequence[TaskEntry]
    ) -> tuple[Iterator[Batch], Callable[[Feeds], tuple[Mapping[str, Array], int]]]:
        """Return batches of texts, and the run that computes and keeps their states."""
        current: list[Batch] = []

        def batches() -> Iterator[Batch]:
            for batch in self.batches([window.tokens for window in part]):
                current[:] = [batch]
                yield batch

        def values_of(feeds: Feeds) -> Feeds:
            numbers = current[0].rows
            values, found = runs.values_and_rows(feeds, len(numbers), self.cancel)
            self._kept.update(zip((rows[index] for index in numbers), found, strict=True))
            return values

        return batches(), self._branches(runs, drop, entries, values_of)
