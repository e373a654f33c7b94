"""Runs of a split variant: states of texts, tasks from states, and calls through a cache of states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.cancel import Cancellation
from runtime.errors import InputError
from runtime.ort.split_graph import SplitGraph
from runtime.slots.hot_entry import added_names
from runtime.states.padding import Padding
from runtime.states.state_cache import StateCache, key_of
from runtime.states.trunk_states import Row, TrunkStates
from runtime.text.bucketing import split

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LookUp:
    """The rows of a batch that a cache has.

    Attributes:
        keys: key of each row.
        rows: states of each row; None where they must be computed.
        columns: columns of each row without padding.
    """

    keys: tuple[bytes, ...]
    rows: tuple[Row | None, ...]
    columns: tuple[slice, ...]

    @property
    def hits(self) -> int:
        """Number of rows whose states are known."""
        return sum(row is not None for row in self.rows)


@dataclass(frozen=True, eq=False)
class SplitRuns:
    """The split graphs of one drop, with the padding of the bundle.

    Attributes:
        graph: the graphs.
        padding: where texts are padded.
        drop: drop of the variant.
        passing: as `padding`, for the states of other variants that the trunk computes on its way.
    """

    graph: SplitGraph
    padding: Padding
    drop: int
    passing: Padding

    def states(self, feeds: Mapping[str, Array], count: int | None = None, cancel: Cancellation | None = None) -> list[Row]:
        """Compute the states of a batch.

        Args:
            feeds: checked inputs.
            count: number of rows to return; None for all.
            cancel: handle that can cancel the run from another thread.

        Returns:
            For each row its states and inputs, without padding.
        """
        columns = self.padding.extents(feeds)
        return self._rows(self.graph.trunk(feeds, cancel), feeds, columns if count is None else columns[:count])

    def values_and_rows(
        self, feeds: Mapping[str, Array], count: int, cancel: Cancellation | None = None
    ) -> tuple[dict[str, Array], list[Row]]:
        """Compute the states of a batch, those of other variants on the way among them, whose texts may keep their padding.

        Args:
            feeds: checked inputs.
            count: number of rows to return.
            cancel: handle that can cancel the run from another thread.

        Returns:
            Values for the branches, and the rows, as in `states`.
        """
        states = self.graph.trunk(feeds, cancel, passing=True)
        return {**feeds, **states}, self._rows(states, feeds, self.passing.extents(feeds)[:count])

    def computes(self, entries: Sequence[TaskEntry]) -> bool:
        """Return whether there is a graph from the states to these tasks: for added ones, that with slots."""
        return bool(self.graph.entry.slots) or not added_names(entries)

    def reads(self, row: Row) -> bool:
        """Return whether a row has everything that the branches read."""
        return set(self.graph.reads) <= row.keys()

    def _rows(self, states: Mapping[str, Array], feeds: Mapping[str, Array], columns: Sequence[slice]) -> list[Row]:
        arrays = {**states, **{name: feeds[name] for name in self._kept(feeds)}}
        return [self.padding.row(arrays, number, each) for number, each in enumerate(columns)]

    def _kept(self, feeds: Mapping[str, Array]) -> list[str]:
        """Return the inputs that are kept with the states: those that the branches read, and everything about tokens."""
        return [name for name, array in feeds.items() if array.dtype == np.int64 or name in self.graph.entry.inputs]

    def check(self, states: TrunkStates) -> None:
        """Check that states are those of this trunk.

        Raises:
            InputError: they were computed by other layers or weights, or in another precision.
        """
        entry = self.graph.entry
        lacking = [state for state in entry.states if state.identity not in states.identities]
        if states.rows and not set(self.graph.reads) <= set(states.rows[0]):
            lacking = lacking or list(entry.states)
        if lacking:
            raise InputError(
                f"states: expected those of this bundle's trunk at drop {self.drop} ({', '.join(s.name for s in lacking)}), "
                f"found {', '.join(each.name for each in states.entries) or 'none'} of drop {states.drop}: other layers or "
                "weights, or another precision, computed them; encode the texts again with this bundle"
            )

    def batches(
        self, rows: Sequence[Row], most_rows: int, most_tokens: int, call: int
    ) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Yield batches of rows with the lowest cost of padding: the numbers of the rows, and the values for the branches."""
        names = list(dict.fromkeys((*self.graph.reads, *(name for name in ("input_ids",) if name in rows[0]))))
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for number, row in enumerate(rows):
            alike.setdefault(self._signature(row), []).append(number)
        for numbers in alike.values():
            for chosen in split([self.padding.width(rows[number]) for number in numbers], most_rows, most_tokens, call):
                batch = [numbers[index] for index in chosen]
                yield batch, self.padding.batch([rows[number] for number in batch], names)

    def _signature(self, row: Row) -> tuple[tuple[int, ...], ...]:
        """Return the lengths of a row that must be equal within a batch; texts that keep their padding differ in all."""
        empty = "attention_mask" in row and not row["attention_mask"].any()  # attends to all columns, padding included
        trimmed = self.padding.tokens if self.padding.trims and not empty else {}
        return tuple(
            tuple(size for axis, size in enumerate(row[name].shape) if axis != trimmed.get(name)) for name in self.graph.reads
        )

    def look_up(self, feeds: Mapping[str, Array], cache: StateCache) -> LookUp:
        """Return the rows of a batch whose states are in a cache."""
        columns = self.padding.extents(feeds)
        prefix = str(self.drop).encode()
        keys = tuple(key_of(self.padding.row(feeds, row, each), prefix) for row, each in enumerate(columns))
        return LookUp(keys, tuple(cache.get(keys)), tuple(columns))

    def values(
        self, feeds: Mapping[str, Array], found: LookUp, cache: StateCache, cancel: Cancellation | None = None
    ) -> dict[str, Array]:
        """Return the states of a batch, those that the cache lacks computed in one run of the trunk.

        Args:
            feeds: checked inputs.
            found: the result of `look_up` for them.
            cache: receives the states that are computed.
            cancel: handle that can cancel the run from another thread.

        Returns:
            Values for the branches: states and inputs.
        """
        new = list(
            {key: row for row, (key, known) in enumerate(zip(found.keys, found.rows, strict=True)) if known is None}.values()
        )
        computed: dict[bytes, Row] = {}
        if new:
            whole = len(new) == len(found.keys)
            part = feeds if whole else self._shortened({name: array[new] for name, array in feeds.items()})
            states = self.graph.trunk(part, cancel)
            columns = [found.columns[row] for row in new] if whole else self.padding.extents(part)
            computed = dict(zip((found.keys[row] for row in new), self._rows(states, part, columns), strict=True))
            cache.put(computed)
            if whole:
                return {**feeds, **states}
        rows = [computed[key] if known is None else known for key, known in zip(found.keys, found.rows, strict=True)]
        states_only = [state.name for state in self.graph.entry.states]
        return {**feeds, **self.padding.batch(rows, states_only, self.padding.width(feeds_row(feeds)))}

    def _shortened(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Remove columns that are padding in all rows."""
        columns = self.padding.extents(feeds)
        if not self.padding.trims:
            return feeds
        return self.padding.cut(feeds, slice(min(each.start for each in columns), max(each.stop for each in columns)))


def feeds_row(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the first row of a batch."""
    return {name: array[0] for name, array in feeds.items()}
