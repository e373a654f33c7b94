"""The routed graph of a bundle: each result row selects an input row and a task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import ROUTE_INPUTS, Manifest, TaskEntry
from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError, BundleError, InputError
from runtime.ort.check_graph import input_problems, type_problems
from runtime.ort.open_bundle import OpenBundle

LOGITS: Final = "logits"

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


def check_routed_graph(session: Any, path: Path, manifest: Manifest) -> None:
    """Check the inputs and outputs of a routed graph.

    Args:
        session: InferenceSession of the graph.
        path: path of the graph, for the message.
        manifest: manifest with the expected inputs and tasks.

    Raises:
        BundleError: the graph does not match the manifest; the message names every input and output that differs.
    """
    if problems := list(_problems(session, manifest)):
        raise BundleError(f"{path}: {'; '.join(problems)}; export it again with `python -m exporter --output DIR`")


@dataclass(frozen=True, eq=False)
class RoutedGraph:
    """A routed graph of an open bundle.

    Attributes:
        bundle: open sessions.
        graph: file name of the graph.
        manifest: manifest of the bundle.
    """

    bundle: OpenBundle
    graph: str
    manifest: Manifest

    def subset(
        self, feeds: Mapping[str, Array], entries: Sequence[TaskEntry], cancel: Cancellation | None = None
    ) -> Sequence[Array]:
        """Compute several tasks for all rows.

        Args:
            feeds: checked inputs.
            entries: manifest entries of the tasks.
            cancel: handle that can cancel the run from another thread.

        Returns:
            Logits [batch, labels] per entry.

        Raises:
            AdapterDropError: as for `OpenBundle.run`.
        """
        batch = _batch(feeds)
        row_ids, task_ids = every_row(self.numbers(entries), batch)
        return own_columns(entries, self._run(feeds, row_ids, task_ids, cancel).reshape(len(entries), batch, -1))

    def checked(self, feeds: Mapping[str, Array], tasks: Sequence[str], rows: Sequence[int] | None) -> Ids:
        """Check the arguments of `Predictor.run_routed`.

        Args:
            feeds: checked inputs.
            tasks: name of the task of each result row.
            rows: input row of each result row; None uses each input row once.

        Returns:
            Input row of each result row.

        Raises:
            InputError: `tasks` or `rows` are invalid.
        """
        row_ids, numbers = checked_rows(rows, _batch(feeds)), self._numbers
        if isinstance(tasks, str) or not isinstance(tasks, Sequence):
            raise InputError(f"tasks: expected a list with one name per row, found {type(tasks).__name__}")
        if unknown := [repr(name) for name in tasks if not (isinstance(name, str) and name in numbers)]:
            raise InputError(f"tasks: expected some of {', '.join(numbers)}, found {', '.join(dict.fromkeys(unknown))}")
        check_counts(tasks, row_ids, rows)
        return row_ids

    def rows(self, feeds: Mapping[str, Array], entries: Sequence[TaskEntry], row_ids: Ids) -> list[Array]:
        """Compute one task per row.

        Args:
            feeds: checked inputs.
            entries: manifest entry of the task of each result row.
            row_ids: input row of each result row.

        Returns:
            Logits [columns of the task] per result row.
        """
        return own_columns(entries, self._run(feeds, row_ids, self.numbers(entries)))

    def numbers(self, entries: Sequence[TaskEntry]) -> Ids:
        """Return the number of each task in the graph."""
        return np.array([self._numbers[entry.name] for entry in entries], np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {entry.name: number for number, entry in enumerate(self.manifest.tasks)}

    def _run(self, feeds: Mapping[str, Array], row_ids: Ids, task_ids: Ids, cancel: Cancellation | None = None) -> Array:
        route = dict(zip(ROUTE_INPUTS, (row_ids, task_ids), strict=True))
        (logits,) = self.bundle.run(self.graph, [LOGITS], {**feeds, **route}, cancel)
        return checked_logits(self.graph, logits, len(row_ids), max(entry.columns for entry in self.manifest.tasks))


def checked_logits(graph: str, logits: Array, rows: int, columns: int) -> Array:
    """Return the logits of a graph that computes one task per row. Raises AdapterDropError if they have another shape."""
    if logits.shape != (rows, columns):
        found = f"the graph returned {list(logits.shape)}; export the bundle again"
        raise AdapterDropError(f"{graph}: expected logits of shape {[rows, columns]}, {found}")
    return logits


def every_row(numbers: Ids, batch: int) -> tuple[Ids, Ids]:
    """Return row_ids and task_ids of each task for all rows of a batch."""
    return np.tile(np.arange(batch, dtype=np.int64), len(numbers)), np.repeat(numbers, batch)


def own_columns(entries: Sequence[TaskEntry], logits: Array) -> list[Array]:
    """Return the logits of each task without the columns of wider ones."""
    return [own[..., : entry.columns].copy() for entry, own in zip(entries, logits, strict=True)]


def _batch(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))


def check_counts(tasks: Sequence[str], row_ids: Ids, rows: Sequence[int] | None) -> None:
    """Check that there is one task for each result row.

    Raises:
        InputError: the numbers differ.
    """
    if len(tasks) != len(row_ids):
        raise InputError(
            f"tasks: expected one name for each of {len(row_ids)} row(s), found {len(tasks)}; "
            + ("give as many rows as tasks" if rows is not None else "use rows= to repeat or omit input rows")
        )


def checked_rows(rows: Sequence[int] | None, batch: int) -> Ids:
    """Return the input row of each result row.

    Args:
        rows: numbers of input rows; None for each row once.
        batch: number of input rows.

    Raises:
        InputError: `rows` is not a list of such numbers.
    """
    if rows is None:
        return np.arange(batch, dtype=np.int64)
    if isinstance(rows, np.ma.MaskedArray):  # asarray() would return the values under the mask
        raise InputError("rows: expected a list of row numbers, found a masked array; pass rows.filled(0) or rows.compressed()")
    try:
        ids = np.asarray(rows)
    except ValueError:  # lists of different lengths
        ids = np.empty(0)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise InputError(f"rows: expected a list of at least one row number, found {rows!r}")
    if wrong := [int(row) for row in ids if not 0 <= row < batch]:
        raise InputError(f"rows: expected numbers in 0..{batch - 1}, found {', '.join(map(str, wrong[:10]))}")
    return ids.astype(np.int64)


def _problems(session: Any, manifest: Manifest) -> Iterator[str]:
    inputs = {value.name: value for value in session.get_inputs()}
    route = {name: inputs.pop(name, None) for name in ROUTE_INPUTS}
    yield from input_problems(inputs, manifest)
    for name, value in route.items():
        if value is None or value.type != "tensor(int64)" or len(value.shape) not in (0, 1):
            found = "none" if value is None else f"{value.type} {value.shape}"
            yield f"input {name}: expected tensor(int64) [rows], the graph has {found}"
    yield from type_problems({value.name: value.type for value in session.get_outputs()})
    outputs = {value.name: value.shape for value in session.get_outputs()}
    width = max(entry.columns for entry in manifest.tasks)
    shape = outputs.get(LOGITS)
    if list(outputs) != [LOGITS] or (shape and (len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width))):
        yield f"outputs: expected {LOGITS} [rows, {width}], the graph has {outputs}"
