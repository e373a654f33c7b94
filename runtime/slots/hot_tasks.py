"""The tasks that are added to a predictor while it serves."""

import os
import weakref
from collections.abc import Container, Mapping, Sequence
from threading import Lock
from types import MappingProxyType

from runtime.bundle import BoundFolder, Manifest, TaskEntry, slots_file
from runtime.bundle.manifest import EXPORT_AGAIN
from runtime.errors import BundleError, InputError
from runtime.ort.forks import PerProcess
from runtime.ort.open_bundle import OpenBundle
from runtime.slots.graph import SlotsGraph
from runtime.slots.hot_entry import AddedFile, HotEntry, TaskWeights
from runtime.slots.layout import SlotLayout, layout_file
from runtime.slots.task_file import open_task_file, own_weights

__all__ = ["HotTasks", "graphs_with_slots", "read_layouts"]


def read_layouts(files: BoundFolder, manifest: Manifest, drops: Sequence[int]) -> dict[int, SlotLayout]:
    """Return drop -> layout of its graph with slots; empty if the bundle was exported without slots.

    Raises:
        BundleError: a layout is damaged.
    """
    graphs = {drop: slots_file(manifest.variant(drop).model) for drop in drops}
    found = {drop: graph for drop, graph in graphs.items() if graph in manifest.files}
    layouts = {
        drop: SlotLayout.from_bytes(files.read(layout_file(graph)), files.path / layout_file(graph))
        for drop, graph in found.items()
    }
    if found and len(found) != len(graphs):
        given = ", ".join(map(str, found))
        raise BundleError(f"{files.path}: expected a graph with slots for each drop, found them for {given}; {EXPORT_AGAIN}")
    return layouts


def graphs_with_slots(manifest: Manifest, layouts: Mapping[int, SlotLayout]) -> dict[str, SlotLayout]:
    """Return the file name of each graph with slots -> its layout: whole graphs, then those of the branches.

    Args:
        manifest: manifest of the bundle.
        layouts: drop -> layout.
    """
    whole = {slots_file(manifest.variant(drop).model): layout for drop, layout in layouts.items()}
    splits = {drop: manifest.split(drop) for drop in layouts}
    return whole | {entry.slots: layouts[drop] for drop, entry in splits.items() if entry is not None and entry.slots}


class HotTasks:
    """Tasks by name, each a version that calls keep to their end. Thread-safe; a look-up takes no lock."""

    def __init__(self, manifest: Manifest, files: BoundFolder, bundle: OpenBundle, layouts: Mapping[int, SlotLayout]) -> None:
        """Start without added tasks.

        Args:
            manifest: manifest of the bundle.
            files: files of the bundle.
            bundle: open sessions.
            layouts: drop -> layout of its graph with slots.
        """
        self.graphs = {
            drop: SlotsGraph(bundle, slots_file(manifest.variant(drop).model), drop, layout) for drop, layout in layouts.items()
        }
        self._layouts, self._manifest, self._files = layouts, manifest, files
        self._added: dict[str, HotEntry] = {}
        self._versions: weakref.WeakSet[TaskEntry] = weakref.WeakSet()
        self._own: dict[str, HotEntry] = {}
        self._locks = PerProcess(Lock)
        self._bundled = {entry.name: entry for entry in manifest.tasks}
        self._results = {name for entry in manifest.tasks for name in entry.result_names}

    @property
    def _changes(self) -> Lock:
        """The lock of this process: that of the parent of a fork may never be released in the child."""
        return self._locks.get()

    @property
    def added(self) -> Mapping[str, TaskEntry]:
        """Added tasks by name; a view that changes with them."""
        return MappingProxyType(self._added)

    @property
    def versions(self) -> Container[TaskEntry]:
        """Entries of the added tasks, and of those that were replaced or removed while a call still uses them."""
        return self._versions

    def files(self) -> dict[str, AddedFile]:
        """Return the files of the added tasks by name, in the order in which they were added."""
        return {name: entry.file for name, entry in list(self._added.items()) if entry.file is not None}

    def add_again(self, files: Mapping[str, AddedFile]) -> None:
        """Add the tasks of a predictor that was pickled.

        Args:
            files: those of `files`.

        Raises:
            InputError: as for `add`, or a file has changed.
        """
        for name, file in files.items():
            self.add(name, file.path)
            if self._added[name].file != file:
                raise InputError(
                    f"{file.path}: the file has changed since the predictor with the task {name!r} was pickled; call "
                    "replace_task() with a file that stays as it is, and pickle the predictor again"
                )

    def add(self, name: str, path: str | os.PathLike[str]) -> None:
        """Add a task, for `Predictor.add_task`."""
        self._check_new(name)
        entry, rows = open_task_file(path, name, self._layouts, self._manifest.precision)
        with self._changes:
            self._check_new(name)  # again: another thread may have added it meanwhile
            for drop, graph in self.graphs.items():
                graph.table.preload(entry.weights[drop], rows[drop])
            self._versions.add(entry)
            self._added[name] = entry

    def replace(self, name: str, path: str | os.PathLike[str]) -> None:
        """Replace a task that was added, for `Predictor.replace_task`."""
        self._find(name)
        entry, rows = open_task_file(path, name, self._layouts, self._manifest.precision)
        with self._changes:
            before = self._find(name)
            for drop, graph in self.graphs.items():
                graph.table.preload(entry.weights[drop], rows[drop])
            self._versions.add(entry)
            self._added[name] = entry
        self._forget(before)

    def remove(self, name: str) -> None:
        """Remove a task that was added, for `Predictor.remove_task`."""
        with self._changes:
            before = self._find(name)
            del self._added[name]
        self._forget(before)

    def prepare(self) -> None:
        """Open the files of the bundle's tasks, so that no later call meets those of a new export. Raises BundleError."""
        for entry in self._manifest.tasks:
            if self.has_slots([entry]):
                self._bundle_task(entry)

    def in_slots(self, entries: Sequence[TaskEntry]) -> list[HotEntry]:
        """Return the entries in the form that a graph with slots takes; those of the bundle come from its files.

        Raises:
            InputError: a task of the bundle has no weights for slots.
        """
        return [entry if isinstance(entry, HotEntry) else self._bundle_task(entry) for entry in entries]

    def has_slots(self, entries: Sequence[TaskEntry]) -> bool:
        """Return whether `in_slots` takes all of these tasks."""
        own = (entry.name for entry in entries if not isinstance(entry, HotEntry))
        return all(name in layout.own for name in own for layout in self._layouts.values())

    def _bundle_task(self, entry: TaskEntry) -> HotEntry:
        if (found := self._own.get(entry.name)) is None:
            weights: dict[int, TaskWeights] = {}
            for drop, layout in self._layouts.items():
                if (name := layout.own.get(entry.name)) is None:
                    raise InputError(f"tasks: {entry.name} cannot be in one call with added tasks: call it by itself")
                weights[drop] = own_weights(self._files.map(name), str(self._files.path / name), layout, drop)
            with self._changes:
                found = self._own.setdefault(entry.name, HotEntry(**vars(entry), weights=weights))
        return found

    def _check_new(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise InputError(f"add_task(): expected a name, found {name!r}")
        if name != name.strip() or "," in name or not name.isprintable():
            raise InputError(
                f"add_task(): expected a name without commas, control characters and spaces around it, found {name!r}: commas "
                "separate names where several are listed, such as in --tasks"
            )
        if name in self._bundled:
            raise InputError(f"add_task(): {name!r} is a task of the bundle: choose another name")
        if name in self._results:
            raise InputError(f"add_task(): {name!r} is a result of a task of the bundle: choose another name")
        if name in self._added:
            raise InputError(f"add_task(): there is a task {name!r}: call replace_task(), or choose another name")

    def _find(self, name: str) -> HotEntry:
        if isinstance(name, str) and name in self._bundled:
            raise InputError(f"{name!r} is a task of the bundle and stays: only added tasks can be replaced or removed")
        found = self._added.get(name) if isinstance(name, str) else None
        if found is None:
            raise InputError(f"expected the name of an added task, found {name!r}; {_known(self._added)}")
        return found

    def _forget(self, entry: HotEntry) -> None:
        for drop, graph in self.graphs.items():
            graph.table.forget(entry.weights[drop])


def _known(names: Mapping[str, object]) -> str:
    shown = list(names)[:10]
    return f"added: {', '.join(shown)}{', …' if len(names) > len(shown) else ''}" if shown else "no task was added"
