"""What is done with a loaded bundle."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy.typing as npt

from runtime.bundle import Manifest
from runtime.cancel import Cancellation
from runtime.checks.feeds import FeedCheck
from runtime.checks.requests import TaskSelection, check_drop, check_pairs, checked_encoder, chosen_tasks
from runtime.errors import InputError
from runtime.hooks import Hook, Run
from runtime.options import Options
from runtime.ort.open import OpenBundle
from runtime.ort.providers import short_name
from runtime.ort.routed_graph import RoutedGraph
from runtime.policy import DropPolicy
from runtime.text.encode import CPU_LIMITS, GPU_LIMITS, Text, TextEncoder
from runtime.text.interpret import TOKENWISE, interpret
from runtime.text.prediction import Prediction, Word

__all__ = ["Answers", "Prediction", "Predictor", "Word"]


class Answers(dict[str, npt.NDArray[Any]]):
    """Name -> logits, and `drop`: the variant that answered."""

    drop: int


@dataclass(frozen=True, eq=False)
class Predictor:
    """A loaded bundle; made by `load`. Nothing in it changes afterwards: many threads may share one.

    `drops`: the numbers of lowest layers without adapters that are loaded, the first is the default; `options`, `policy` and
    `hooks`: as given to `load`.
    """

    manifest: Manifest
    drops: tuple[int, ...]
    options: Options
    policy: DropPolicy | None
    hooks: tuple[Hook, ...]
    _opened: OpenBundle
    _encoder: TextEncoder | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, in the order of the export."""
        return tuple(task.name for task in self.manifest.tasks)

    @property
    def provider(self) -> str:
        """What really runs, as ONNX Runtime reports it: "cpu", "cuda", "tensorrt" or "openvino"."""
        return short_name(next(iter(self._opened.sessions.values())).get_providers()[0])

    def prepare(self) -> None:
        """Open every graph now. Otherwise the CPU opens those of further drops, and the routed one, when a call first needs one
        of them; that call then waits while the weights of all are packed into one copy, for a large bundle some seconds.

        Raises:
            BundleError: a graph cannot be loaded.
        """
        for graph in self._opened.sessions:
            self._opened.sessions[graph]

    def node_counts(self, drop: int | None = None) -> dict[str, int]:
        """Provider -> nodes of that variant (None = the first) that it ran, counted by ONNX Runtime in one small run of a
        session of its own: what a provider left to the CPU shows here. A part that a provider compiled is one node."""
        check_drop(drop, self.drops, "loaded")
        return self._opened.node_counts(self._graphs[self._drop(drop)], self.manifest, self.options)

    def run(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        cancel: Cancellation | None = None,
    ) -> Answers:
        """Logits of `tasks` (None = all), in that order, by the name of the task; a task with several outputs has one key for
        each, whatever the graph calls them: "task.start_logits" and "task.end_logits" for question answering,
        "task.rel_preds" and "task.arc_preds" for dependency parsing.

        Shapes: [batch, labels]; [batch, sequence, labels] for tagging; [batch, sequence, vocabulary] for language models
        (of the decoder's sequence for seq2seq_lm); [batch, sequence] twice for question answering; [rows, 1] for multiple
        choice, where a row is one choice of one question.

        `drop`: which variant answers, one of `drops`; None takes what the policy of `load` chooses, without one the first. The
        answers' attribute `drop` says which it was.

        Where the bundle has a routed graph, some of the tasks cost only what they need, with logits that are equal to rounding;
        without one, all tasks are computed.

        `feeds`: the inputs of `manifest.inputs`, each of its dtype, shape and limit. `attention_mask` (1 = token,
        0 = padding) must be given; `token_type_ids` may be left out and is then all zeros, as in transformers.

        Raises:
            InputError: names every mismatch of the feeds; an unknown task; a drop that was not loaded.
            CancelledError: `cancel` was used from another thread.
        """
        # What repeats is prepared (asked, checks, graphs): from cold caches, as after a run, Python's own work is not cheap.
        asked = self._asked(tasks)
        check_drop(drop, self.drops, "loaded")
        checked = self._check(feeds)
        chosen = self._choose(drop)
        watched = self.hooks or self.policy is not None
        logits = (self._watched if watched else self._answer)(asked, checked, chosen, cancel)
        answers = Answers(zip(asked.answers, logits, strict=True))
        answers.drop = chosen
        return answers

    def run_on_device(
        self, feeds: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str] | None = None, drop: int | None = None
    ) -> dict[str, Any]:
        """As `run`, but the logits stay where they were computed: name -> `onnxruntime.OrtValue`, on the GPU for "cuda" and
        "tensorrt", for a next step there. `.numpy()` copies one to the host. No hook and no policy sees it.

        Raises:
            InputError: as `run`.
        """
        asked = self._asked(tasks)
        check_drop(drop, self.drops, "loaded")
        values = self._opened.bound(self._graphs[self._drop(drop)], asked.outputs, self._check(feeds))
        return dict(zip(asked.answers, values, strict=True))

    def run_routed(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        tasks: Sequence[str],
        rows: Sequence[int] | None = None,
        drop: int | None = None,
    ) -> list[npt.NDArray[Any]]:
        """One task for each row: logits [labels of its task] per row, in the order of `tasks`.

        `rows`: which row of `feeds` each of `tasks` answers, in any order, several tasks or none for a row; None takes each row
        once, so that `tasks` has one name per row. The trunk is computed once per row of `feeds`, adapters and heads once per
        task named. `feeds` and `drop`: as in `run`.

        Raises:
            InputError: as `run`; another number of tasks than rows, a row that is not there, or a bundle that was exported
                without `--routed`.
        """
        check_drop(drop, self.drops, "loaded")
        routed = self._routed.get(self._drop(drop))
        if routed is None:
            raise InputError(
                "run_routed(): this bundle has no routed graph; export it again with `python -m exporter --routed`"
            )
        return routed.rows(self._check(feeds), tasks, rows)

    def predict(
        self,
        texts: Sequence[Text],
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        cancel: Cancellation | None = None,
    ) -> dict[str, list[Prediction]]:
        """Predictions of `tasks` (None = all), in that order, for every text, in the order of `texts`.

        `texts`: a list of str and of pairs (str, str); question answering takes pairs (question, context) only. In multiple
        choice a text is one choice: give each choice of a question as a pair of its own and compare the values. Over-long
        texts are an error unless `truncate`, which cuts the longer one of a pair first; beyond the cut there are no words
        and no answers. Texts of similar length share a batch, of at most `batch_size` rows where that is given.

        Raises:
            InputError: as `run`; texts that are none or too long, or no pairs for question answering; a bundle without a
                tokenizer or with images; a task of which a text tells too little (causal_lm, seq2seq_lm,
                dependency_parsing, hidden_states, image_embedding): call `run` for it, or name the others in `tasks`.
        """
        entries = chosen_tasks(self.manifest, tasks)
        check_drop(drop, self.drops, "loaded")
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size: expected a positive integer or None, found {batch_size!r}")
        encoder = checked_encoder(self.manifest, self._encoder, entries)
        rows = encoder.encode(texts, truncate)
        check_pairs(entries, texts)
        found: dict[str, dict[int, Prediction]] = {entry.name: {} for entry in entries}
        on_gpu = self.provider in ("cuda", "tensorrt")
        shapes = self.options.cuda.graphs if self.provider == "cuda" else ()
        for batch in encoder.batches(rows, GPU_LIMITS if on_gpu else CPU_LIMITS, batch_size, shapes):
            logits = self.run(batch.feeds, tuple(found), drop, cancel)
            width = batch.feeds["input_ids"].shape[1]
            for place, index in enumerate(batch.rows):
                for entry in entries:
                    values = [logits[name][place] for name in entry.answers]
                    if entry.head in TOKENWISE:  # without the padding
                        start = encoder.offset(rows[index], width)
                        values = [array[start : start + len(rows[index])] for array in values]
                    answer = interpret(entry, values, texts[index], rows[index], encoder)
                    found[entry.name][index] = replace(answer, drop=logits.drop)
        return {name: [answers[index] for index in range(len(texts))] for name, answers in found.items()}

    def _answer(
        self, asked: TaskSelection, feeds: Mapping[str, npt.NDArray[Any]], drop: int, cancel: Cancellation | None
    ) -> Sequence[npt.NDArray[Any]]:
        # Not RunOptions.only_execute_path_to_fetches: inference builds of ONNX Runtime ignore it (1.31 and 1.32 do).
        if len(asked.entries) < len(self.manifest.tasks) and (routed := self._routed.get(drop)):
            return routed.subset(feeds, asked.entries, cancel)
        return self._opened.run(self._graphs[drop], asked.outputs, feeds, cancel)

    def _watched(
        self, asked: TaskSelection, feeds: Mapping[str, npt.NDArray[Any]], drop: int, cancel: Cancellation | None
    ) -> Sequence[npt.NDArray[Any]]:
        """As `_answer`, seen by the hooks and the policy."""
        started = time.perf_counter()
        try:
            with ExitStack() as stack:
                if self.hooks:
                    run = _described(self.provider, drop, [entry.name for entry in asked.entries], feeds)
                    for hook in self.hooks:
                        stack.enter_context(hook(run))
                return self._answer(asked, feeds, drop, cancel)
        finally:
            if self.policy is not None:
                self.policy.done(drop, time.perf_counter() - started)

    @cached_property
    def _check(self) -> FeedCheck:
        return FeedCheck(self.manifest)

    @cached_property
    def _graphs(self) -> dict[int, str]:
        return {drop: self.manifest.variant(drop).model for drop in self.drops}

    @cached_property
    def _routed(self) -> dict[int, RoutedGraph]:
        graphs = {drop: self.manifest.variant(drop).routed for drop in self.drops}
        return {drop: RoutedGraph(self._opened, graph, self.manifest) for drop, graph in graphs.items() if graph}

    @cached_property
    def _all(self) -> TaskSelection:
        return TaskSelection.of(self.manifest.tasks)

    def _asked(self, tasks: Sequence[str] | None) -> TaskSelection:
        return self._all if tasks is None else TaskSelection.of(chosen_tasks(self.manifest, tasks))

    def _drop(self, drop: int | None) -> int:
        return self.drops[0] if drop is None else drop

    def _choose(self, drop: int | None) -> int:
        if drop is not None or self.policy is None:
            return self._drop(drop)
        check_drop(chosen := self.policy.choose(self.drops), self.drops, "loaded")
        return chosen


def _described(provider: str, drop: int, tasks: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> Run:
    first = next(iter(feeds.values()))
    tokens = int(feeds["attention_mask"].sum()) if "attention_mask" in feeds else len(first)
    return Run(provider, drop, tuple(tasks), len(first), first.shape[1] if first.ndim == 2 else 1, tokens)
