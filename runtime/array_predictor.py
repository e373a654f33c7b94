"""Inference on a loaded bundle with arrays as inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from runtime.base_predictor import BasePredictor
from runtime.bundle import TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.feeds import FeedCheck
from runtime.checks.requests import TaskSelection, check_drop
from runtime.errors import InputError
from runtime.ort.check_graph import OutputCheck
from runtime.ort.routed_graph import Ids, RoutedGraph, check_counts, checked_rows
from runtime.slots.hot_entry import added_names
from runtime.states.split_runs import LookUp


class Answers(dict[str, npt.NDArray[Any]]):
    """Logits by name: the task, or `task.output` for a task with several outputs.

    Attributes:
        drop: drop of the variant that computed them.
    """

    drop: int


@dataclass(frozen=True, eq=False)
class ArrayPredictor(BasePredictor):
    """The part of a predictor that takes arrays."""

    def run(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        cancel: Cancellation | None = None,
    ) -> Answers:
        """Compute the logits of some or all tasks.

        For a selection of tasks, a bundle with a routed graph computes only these tasks; the logits are equal up to rounding.
        Without a routed graph, all tasks are computed.

        Args:
            feeds: the inputs of `manifest.inputs`, each with its dtype, shape and limit. `attention_mask` (1 = token,
                0 = padding) is required; `token_type_ids` defaults to zeros, except in models such as GPT-2, where
                zeros differ from none: there it is required.
            tasks: names of the tasks; None for all tasks of the bundle.
            drop: drop of the variant, one of `drops`. None uses the policy, or the first drop without a policy.
            cancel: handle that can cancel the call from another thread.

        Returns:
            Logits by name, in the order of `tasks`. Shapes: [batch, labels]; [batch, sequence, labels] for tagging; [batch,
            sequence, vocabulary] for language models (the decoder's sequence for seq2seq_lm); [batch, sequence] twice for
            question answering; [rows, 1] for multiple choice, where a row is one choice of one question. A task with several
            outputs has one key per output, independent of the names in the graph: "task.start_logits" and "task.end_logits"
            for question answering, "task.rel_preds" and "task.arc_preds" for dependency parsing. The attribute `drop` is the
            drop of the variant that was used.

        Raises:
            InputError: the feeds do not match (the message names every mismatch), a task is unknown, or the drop is not loaded.
            CancelledError: the call was cancelled through `cancel`.
        """
        # Task selection, checks and graph names are prepared once: after a run the CPU caches are cold and Python is slow.
        return self._run_selected(self._select(tasks), feeds, drop, cancel)

    def _run_selected(
        self, selection: TaskSelection, feeds: Mapping[str, npt.NDArray[Any]], drop: int | None, cancel: Cancellation | None
    ) -> Answers:
        """`run` for tasks that were looked up, which other threads may have replaced or removed since."""
        check_drop(drop, self.drops, "loaded")
        checked = self._check(feeds)
        chosen = self._chosen_drop(drop)
        cached = self._look_up(checked, chosen, selection.entries)
        observed = self.hooks or self.policy is not None
        logits = (self._run_observed if observed else self._run_graph)(selection, checked, chosen, cancel, cached)
        answers = Answers(zip(selection.result_names, logits, strict=True))
        answers.drop = chosen
        return answers

    def run_on_device(
        self, feeds: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str] | None = None, drop: int | None = None
    ) -> dict[str, Any]:
        """Compute logits as `run` does, and leave them on the device, for further processing there.

        Hooks and the policy are not called.

        Args:
            feeds: inputs, as for `run`.
            tasks: names of tasks of the bundle; None for all of them.
            drop: drop of the variant; None for the first one.

        Returns:
            Name -> `onnxruntime.OrtValue`, on the GPU for "cuda" and "tensorrt". `.numpy()` copies a value to the host.

        Raises:
            InputError: as for `run`.
        """
        selection = self._select(tasks)
        if added := added_names(selection.entries):
            raise InputError(f"run_on_device(): expected tasks of the bundle, found added ones: {', '.join(added)}; call run()")
        check_drop(drop, self.drops, "loaded")
        checked = self._check(feeds)
        values = self._bundle.run_on_device(self._graphs[self._drop_or_default(drop)], selection.outputs, checked)
        self._check_outputs(selection.outputs, [value.shape() for value in values], len(next(iter(checked.values()))))
        return dict(zip(selection.result_names, values, strict=True))

    def run_routed(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        tasks: Sequence[str],
        rows: Sequence[int] | None = None,
        drop: int | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Compute one task per row.

        The trunk is computed once per row of `feeds`; adapters and heads are computed once per entry of `tasks`.

        Args:
            feeds: inputs, as for `run`.
            tasks: name of the task of each result row.
            rows: for each entry of `tasks`, the row of `feeds` that it reads; rows may be repeated, reordered or omitted. None
                uses each row once, so that `tasks` has one entry per row.
            drop: drop of the variant; None uses the policy, or the first drop without a policy.

        Returns:
            Logits [labels of the task] per entry of `tasks`, in the same order.

        Raises:
            InputError: as for `run`; the number of tasks differs from the number of rows; a row does not exist; or the bundle
                was exported without `--routed`.
        """
        check_drop(drop, self.drops, "loaded")
        # A list of other things than names is refused below.
        names = tasks if isinstance(tasks, Sequence) and not isinstance(tasks, str) else ()
        if self._hot is not None and any(isinstance(name, str) and name in self._added for name in names):
            found = {entry.name: entry for entry in self.entries(names)}
            return self._run_rows(feeds, [found[name] for name in names], rows, drop)
        routed = self._routed.get(self._drop_or_default(drop))
        if routed is None:
            raise InputError(
                "run_routed(): this bundle has no routed graph; export it again with `python -m exporter --routed`"
            )
        checked = self._check(feeds)
        row_ids = routed.checked(checked, tasks, rows)
        known = {entry.name: entry for entry in self.manifest.tasks}
        return self._rows_observed(checked, [known[name] for name in tasks], row_ids, self._chosen_drop(drop))

    def routes(self, tasks: Sequence[str | TaskEntry]) -> bool:
        """Return whether `run_routed` and `predict_routed` take these tasks.

        Tasks of the bundle need `--routed`; together with added tasks, they need slots of their structure.

        Raises:
            InputError: a task is unknown, or the list is empty.
        """
        return self._routes(self.entries(tasks))

    def _routes(self, entries: Sequence[TaskEntry]) -> bool:
        if self._hot is not None and added_names(entries):
            return self._hot.has_slots(entries)
        return len(self._routed) == len(self.drops)

    def _look_up(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],  # noqa: ARG002 - StatePredictor uses them
        drop: int,  # noqa: ARG002
        entries: Sequence[TaskEntry],  # noqa: ARG002
    ) -> LookUp | None:
        """Return the states of the trunk that are known for these inputs; None without a cache that these tasks can use."""
        return None

    def _run_rows(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        entries: Sequence[TaskEntry],
        rows: Sequence[int] | None,
        drop: int | None,
    ) -> list[npt.NDArray[Any]]:
        """`run_routed` for tasks that were looked up."""
        if self._hot is None or not added_names(entries):
            return self.run_routed(feeds, [entry.name for entry in entries], rows, drop)
        checked = self._check(feeds)
        row_ids = checked_rows(rows, len(next(iter(checked.values()))))
        check_counts([entry.name for entry in entries], row_ids, rows)
        return self._rows_observed(checked, entries, row_ids, self._chosen_drop(drop))

    def _rows_observed(
        self, feeds: Mapping[str, npt.NDArray[Any]], entries: Sequence[TaskEntry], row_ids: Ids, drop: int
    ) -> list[npt.NDArray[Any]]:
        """`_compute_rows` inside the hooks, with its duration reported to the policy."""
        cached = self._look_up(feeds, drop, entries)
        if not self.hooks and self.policy is None:
            return self._compute_rows(feeds, entries, row_ids, drop, cached)
        names, hits = list(dict.fromkeys(entry.name for entry in entries)), 0 if cached is None else cached.hits
        return self._observed(drop, names, feeds, hits, lambda: self._compute_rows(feeds, entries, row_ids, drop, cached))

    def _compute_rows(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        entries: Sequence[TaskEntry],
        row_ids: Ids,
        drop: int,
        cached: LookUp | None,
    ) -> list[npt.NDArray[Any]]:
        """Compute one task per row of `row_ids`."""
        del cached  # StatePredictor uses it
        if self._hot is not None and added_names(entries):
            return self._hot.graphs[drop].rows(feeds, self._hot.in_slots(entries), row_ids)
        return self._routed[drop].rows(feeds, entries, row_ids)

    def _run_graph(
        self,
        selection: TaskSelection,
        feeds: Mapping[str, npt.NDArray[Any]],
        drop: int,
        cancel: Cancellation | None,
        cached: LookUp | None,
    ) -> Sequence[npt.NDArray[Any]]:
        del cached  # StatePredictor uses it
        if self._hot is not None and added_names(selection.entries):
            return self._hot.graphs[drop].tasks(feeds, self._hot.in_slots(selection.entries), cancel)
        # Not RunOptions.only_execute_path_to_fetches: inference builds of ONNX Runtime ignore it (1.31 and 1.32 do).
        if len(selection.entries) < len(self.manifest.tasks) and (routed := self._routed.get(drop)):
            return routed.subset(feeds, selection.entries, cancel)
        logits = self._bundle.run(self._graphs[drop], selection.outputs, feeds, cancel)
        self._check_outputs(selection.outputs, [array.shape for array in logits], len(next(iter(feeds.values()))))
        return logits

    def _run_observed(
        self,
        selection: TaskSelection,
        feeds: Mapping[str, npt.NDArray[Any]],
        drop: int,
        cancel: Cancellation | None,
        cached: LookUp | None,
    ) -> Sequence[npt.NDArray[Any]]:
        """`_run_graph` inside the hooks, with its duration reported to the policy."""
        names, hits = [entry.name for entry in selection.entries], 0 if cached is None else cached.hits
        return self._observed(drop, names, feeds, hits, lambda: self._run_graph(selection, feeds, drop, cancel, cached))

    @cached_property
    def _check(self) -> FeedCheck:
        return FeedCheck(self.manifest)

    @cached_property
    def _check_outputs(self) -> OutputCheck:
        return OutputCheck(self.manifest)

    @cached_property
    def _routed(self) -> dict[int, RoutedGraph]:
        graphs = {drop: self.manifest.variant(drop).routed for drop in self.drops}
        return {drop: RoutedGraph(self._bundle, graph, self.manifest) for drop, graph in graphs.items() if graph}

    @cached_property
    def _all_tasks(self) -> TaskSelection:
        return TaskSelection.of(self.manifest.tasks)

    def _select(self, tasks: Sequence[str] | None) -> TaskSelection:
        return self._all_tasks if tasks is None else TaskSelection.of(self.entries(tasks))
