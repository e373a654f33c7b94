"""The part of a predictor that does not depend on its inputs: manifest, tasks, drops, providers and their checks."""

import os
import pickle
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

import numpy.typing as npt

from runtime.bundle import Manifest, TaskEntry
from runtime.checks.requests import check_drop, select_tasks
from runtime.errors import InputError
from runtime.hooks import Hook, Run
from runtime.options import Options
from runtime.ort.known_providers import short_name
from runtime.ort.open_bundle import OpenBundle
from runtime.ort.probe import ProbeRow
from runtime.policy import DropPolicy
from runtime.slots.hot_entry import AddedFile
from runtime.slots.hot_tasks import HotTasks

Rows = TypeVar("Rows", bound=Sequence[npt.NDArray[Any]])

_NONE: Final[Mapping[str, TaskEntry]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class BasePredictor:
    """A loaded bundle without the calls that compute its tasks.

    Attributes:
        manifest: manifest of the bundle.
        drops: loaded drops (number of lowest layers without adapters); the first one is the default.
        options: session options, as passed to `load`.
        policy: drop policy, as passed to `load`.
        hooks: hooks around every run, as passed to `load`.
    """

    manifest: Manifest
    drops: tuple[int, ...]
    options: Options
    policy: DropPolicy | None
    hooks: tuple[Hook, ...]
    _bundle: OpenBundle
    # Loads the same bundle again, and adds the tasks of these files
    _load: Callable[[Options, DropPolicy | None, tuple[Hook, ...], Mapping[str, AddedFile]], Any]
    _hot: HotTasks | None = field(default=None, kw_only=True)

    def __copy__(self) -> Self:
        """Return the predictor itself, which is immutable."""
        return self

    def __deepcopy__(self, _: object) -> Self:
        """Return the predictor itself, which is immutable."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder, the arguments of `load` and the files of added tasks; the other process loads and adds them again.

        Unpickling raises what `load` and `add_task` raise, a BundleError if the folder contains another bundle by then, and an
        InputError if the file of an added task has changed.

        Raises:
            InputError: a hook, the policy or a field of the options cannot be pickled.
        """
        parts: dict[str, tuple[Any, ...]] = {
            f"options.{each.name}": (getattr(self.options, each.name),) for each in fields(self.options)
        }
        parts |= {"policy": (self.policy,), "hooks": self.hooks}
        for name, values in parts.items():
            for value in values:
                _check_pickles(name, value)
        return self._load, (self.options, self.policy, self.hooks, {} if self._hot is None else self._hot.files())

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks: those of the bundle in export order, then those that were added."""
        return (*(task.name for task in self.manifest.tasks), *self._added)

    def entries(self, tasks: Sequence[str | TaskEntry] | None = None) -> tuple[TaskEntry, ...]:
        """Return the entries of tasks without duplicates; those of the bundle for None.

        The entry of an added task stands for its present weights: in place of the name, it gives several calls the same
        weights, even if the task is replaced or removed between them.

        Raises:
            InputError: a task is unknown, or the list is empty.
        """
        return select_tasks(self.manifest, tasks, self._added, self._versions)

    def add_task(self, name: str, file: str | os.PathLike[str]) -> None:
        """Add a task to the predictor, while other threads use it.

        The task is one of `tasks` from then on. Only calls that name it compute it: `tasks=None` means the tasks of the bundle.

        Args:
            name: name of the task in this predictor.
            file: file that `python -m exporter task` made for this bundle. It must stay as it is while the task is in use:
                weights are read again when a slot needs them.

        Raises:
            InputError: the name exists; the file is damaged, contains NaN or was made for another bundle; or this bundle was
                exported without `--slots`. Nothing has changed then.
        """
        self._slots().add(name, file)

    def remove_task(self, name: str) -> None:
        """Remove a task that was added. Calls in flight finish.

        Raises:
            InputError: there is no added task of this name.
        """
        self._slots().remove(name)

    def replace_task(self, name: str, file: str | os.PathLike[str]) -> None:
        """Replace a task that was added. Calls in flight finish on the weights with which they began.

        Args:
            name: name of the task.
            file: as for `add_task`.

        Raises:
            InputError: there is no added task of this name, or as for `add_task`; the task is then as it was.
        """
        self._slots().replace(name, file)

    @property
    def provider(self) -> str:
        """Provider in use, as ONNX Runtime reports it, such as "cpu", "cuda" or "openvino"."""
        return short_name(next(iter(self._bundle.sessions.values())).get_providers()[0])

    def prepare(self) -> None:
        """Open all graphs now.

        By default, the CPU provider opens the graphs of further drops and the routed graph on the first call that needs one
        of them. That call waits until the weights of all graphs are packed into one copy, which takes seconds for a large
        bundle.

        Raises:
            BundleError: a graph cannot be loaded.
        """
        self._bundle.prepare()
        if self._hot is not None:
            self._hot.prepare()

    def verify(self) -> tuple[ProbeRow, ...]:
        """Compare the logits of all graphs with those that the export verified, which the bundle contains for a few inputs.

        All loaded graphs are opened, the routed ones too.

        Returns:
            A row for each task of each graph.

        Raises:
            ProviderError: a graph fails, or the logits of a task differ; the message names all such tasks of the graph.
            BundleError: a graph or the probe cannot be loaded.
        """
        return self._bundle.verify(self.manifest, self.options)

    def node_counts(self, drop: int | None = None) -> dict[str, int]:
        """Count the nodes that each provider runs.

        The counts come from ONNX Runtime's profile of one small run in a separate session. They show which nodes a provider
        left to the CPU. A subgraph that a provider compiled counts as one node.

        Args:
            drop: drop of the variant; None for the first one.

        Returns:
            Provider name -> number of nodes.

        Raises:
            InputError: the drop is not loaded.
        """
        check_drop(drop, self.drops, "loaded")
        return self._bundle.node_counts(self._graphs[self._drop_or_default(drop)], self.manifest, self.options)

    def _observed(
        self,
        drop: int,
        tasks: Sequence[str],
        feeds: Mapping[str, npt.NDArray[Any]],
        hits: int,
        run: Callable[[], Rows],
    ) -> Rows:
        """Call `run` inside the hooks and report its duration to the policy."""
        started = time.perf_counter()
        try:
            with ExitStack() as stack:
                if self.hooks:
                    described = _describe_run(self.provider, drop, tasks, feeds, hits)
                    for hook in self.hooks:
                        stack.enter_context(hook(described))
                return run()
        finally:
            if self.policy is not None:
                self.policy.done(drop, time.perf_counter() - started)

    @cached_property
    def _graphs(self) -> dict[int, str]:
        return {drop: self.manifest.variant(drop).model for drop in self.drops}

    @property
    def _versions(self) -> Container[TaskEntry]:
        return () if self._hot is None else self._hot.versions

    @property
    def _added(self) -> Mapping[str, TaskEntry]:
        return _NONE if self._hot is None else self._hot.added

    def _slots(self) -> HotTasks:
        if self._hot is None:
            raise InputError("this bundle has no slots for further tasks: export it again with `python -m exporter --slots N`")
        return self._hot

    def _drop_or_default(self, drop: int | None) -> int:
        return self.drops[0] if drop is None else drop

    def _chosen_drop(self, drop: int | None) -> int:
        if drop is not None or self.policy is None:
            return self._drop_or_default(drop)
        check_drop(chosen := self.policy.choose(self.drops), self.drops, "loaded")
        return chosen


def _describe_run(provider: str, drop: int, tasks: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], cached: int) -> Run:
    first = next(iter(feeds.values()))
    tokens = int(feeds["attention_mask"].sum()) if "attention_mask" in feeds else len(first)
    return Run(provider, drop, tuple(tasks), len(first), first.shape[1] if first.ndim == 2 else 1, tokens, cached)


def _check_pickles(name: str, value: object) -> None:
    if "cloudpickle" in sys.modules:  # may be what is pickling, and takes more than pickle does, such as lambdas
        return
    try:
        pickle.dumps(value)
    except Exception as error:  # of any type: it comes from the object
        raise InputError(
            f"{name}: a predictor is pickled with its {name}, and {value!r} cannot be pickled: {error}; use classes and "
            "functions of modules, or pass the folder to the other process and call runtime.load() there"
        ) from error
