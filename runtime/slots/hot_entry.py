"""Tasks that calls compute in slots: their entries, and the versions of their weights."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.errors import InputError

Array = npt.NDArray[Any]


@dataclass(eq=False)
class TaskWeights:
    """The weights of one version of a task for one graph with slots; they stay in their file until a slot needs them.

    Attributes:
        group: number of the group whose slots it takes.
        from_file: reads the weights: input of the graph -> array. Raises an AdapterDropError if the file has changed.
        kept: the weights of a version that was replaced or removed, whose file may be gone, for the calls that still use it.
    """

    group: int
    from_file: Callable[[], Mapping[str, Array]]
    kept: Mapping[str, Array] | None = None

    def read(self) -> Mapping[str, Array]:
        """Return the weights: input of the graph -> array. Raises as `from_file`."""
        return self.from_file() if self.kept is None else self.kept


@dataclass(frozen=True)
class AddedFile:
    """The file of a task that was added, with which a pickled predictor adds it again.

    Attributes:
        path: absolute path of the file.
        sha256: hash of its content.
    """

    path: str
    sha256: str


@dataclass(frozen=True, eq=False, kw_only=True)
class HotEntry(TaskEntry):
    """A task that calls compute in a slot. Calls keep the entry with which they began, also if the task is replaced.

    Attributes:
        weights: drop -> weights.
        file: the file of a task that was added; None for a task of the bundle.
    """

    weights: Mapping[int, TaskWeights] = field(repr=False)
    file: AddedFile | None = field(default=None, repr=False)
    # Two versions of a task are two entries, even if their names and labels are equal.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __copy__(self) -> "HotEntry":
        """Return the entry itself, which is immutable."""
        return self

    def __deepcopy__(self, _: object) -> "HotEntry":
        """Return the entry itself, which is immutable."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Refuse to be pickled: its weights are in the slots of one predictor. Raises InputError."""
        raise InputError(
            f"{self.name}: the entry of an added task belongs to its predictor and cannot be pickled: pickle the predictor, "
            "and call entries() of the one that is unpickled"
        )


def added_names(entries: Iterable[TaskEntry]) -> list[str]:
    """Return the names of the tasks among `entries` that were added: the graph with slots computes them, and no other one."""
    return [entry.name for entry in entries if isinstance(entry, HotEntry)]


def file_hashes(entries: Iterable[TaskEntry]) -> dict[str, str]:
    """Return added task -> sha256 of its file."""
    return {entry.name: entry.file.sha256 for entry in entries if isinstance(entry, HotEntry) and entry.file is not None}


def pinned(entries: Iterable[TaskEntry]) -> tuple[str | TaskEntry, ...]:
    """Return tasks for several calls, all of which are to use the same weights: added tasks as the versions of now."""
    return tuple(entry if isinstance(entry, HotEntry) else entry.name for entry in entries)
