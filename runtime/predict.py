"""`load` a bundle into a `Predictor`."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.batch import CPU_LIMITS, GPU_LIMITS, Text, TextEncoder
from runtime.bundle import Manifest, check_files, read_manifest
from runtime.cancel import Cancellation
from runtime.checks import check_drop, check_pairs, checked_encoder, chosen_tasks
from runtime.errors import InputError
from runtime.feeds import check_feeds
from runtime.graphs import check_graph
from runtime.hooks import Hook, Run
from runtime.interpret import TOKENWISE, interpret
from runtime.options import Options
from runtime.policy import DropPolicy
from runtime.prediction import Prediction, Word
from runtime.providers import short_name
from runtime.routed import RoutedGraph, check_routed
from runtime.session import Opened, open_sessions

__all__ = ["Answers", "Prediction", "Predictor", "Word", "load"]


def load(
    folder: str | os.PathLike[str],
    provider: str = "auto",
    drop: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    options: Options | None = None,
    policy: DropPolicy | None = None,
    hooks: Sequence[Hook] = (),
) -> "Predictor":
    """Load the bundle in `folder`.

    Args:
        provider: "cpu", "cuda", "tensorrt" or "openvino"; "auto" takes the best that works here.
        drop: load the variant of that drop alone; None loads all of them, so that `run` and `predict` can choose.
        threads: threads within one operation; None leaves it to ONNX Runtime.
        verify: compare every file's sha256 with the manifest. Missing files are refused in any case.
        policy: chooses the drop of every call that names none, say `LatencyTarget`; None = the first drop.
        options: how sessions are made, see `Options`; `threads` above goes before the one there.
        hooks: entered around every run of a graph, the first one outermost; for metrics and traces, see `Hook`.

    Raises:
        BundleError: the folder is no bundle, or a file of it is missing, altered or not loadable.
        ProviderError: the provider is unknown, not installed or not working.
        InputError: `drop` was not exported, `threads` is not a positive integer, or the cache folder cannot be used.
    """
    options = Options() if options is None else options
    options = options if threads is None else replace(options, threads=threads)
    manifest = read_manifest(folder)
    check_drop(drop, manifest.drops, "exported")
    check_files(folder, manifest, contents=verify)
    drops = manifest.drops if drop is None else (drop,)
    variants = [manifest.variant(each) for each in drops]
    graphs = [graph for variant in variants for graph in (variant.model, variant.routed) if graph]
    opened = open_sessions(Path(folder), manifest, graphs, provider, options)
    for variant in variants:
        check_graph(opened.sessions[variant.model], Path(folder) / variant.model, manifest)
        if variant.routed:
            check_routed(opened.sessions[variant.routed], Path(folder) / variant.routed, manifest)
    encoder = TextEncoder.load(Path(folder), manifest) if manifest.tokenizer else None
    return Predictor(manifest, drops, options, policy, tuple(hooks), opened, encoder)


class Answers(dict[str, npt.NDArray[Any]]):
    """Name -> logits, and `drop`: the variant that answered."""

    def __init__(self, logits: Iterable[tuple[str, npt.NDArray[Any]]], drop: int) -> None:
        super().__init__(logits)
        self.drop = drop


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
    _opened: Opened
    _encoder: TextEncoder | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, in the order of the export."""
        return tuple(task.name for task in self.manifest.tasks)

    @property
    def provider(self) -> str:
        """What really runs, as ONNX Runtime reports it: "cpu", "cuda", "tensorrt" or "openvino"."""
        return short_name(next(iter(self._opened.sessions.values())).get_providers()[0])

    def node_counts(self, drop: int | None = None) -> dict[str, int]:
        """Provider -> nodes of that variant (None = the first) that it ran, counted by ONNX Runtime in one small run of a
        session of its own: what a provider left to the CPU shows here. A part that a provider compiled is one node."""
        check_drop(drop, self.drops, "loaded")
        return self._opened.node_counts(self._graph(drop), self.manifest, self.options)

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
        entries = chosen_tasks(self.manifest, tasks)
        check_drop(drop, self.drops, "loaded")
        checked = check_feeds(feeds, self.manifest)
        chosen = self._choose(drop)
        names = [name for entry in entries for name in entry.answers]
        # Not RunOptions.only_execute_path_to_fetches: inference builds of ONNX Runtime ignore it (1.31 and 1.32 do).
        routed = self._routed(chosen) if len(entries) < len(self.tasks) else None
        started = time.perf_counter()
        try:
            with ExitStack() as stack:
                if self.hooks:
                    run = _described(self.provider, chosen, [entry.name for entry in entries], checked)
                    for hook in self.hooks:
                        stack.enter_context(hook(run))
                if routed is None:
                    outputs = [output for entry in entries for output in entry.outputs]
                    logits = self._opened.run(self._graph(chosen), outputs, checked, cancel)
                else:
                    logits = routed.subset(checked, entries, cancel)
        finally:
            if self.policy is not None:
                self.policy.done(chosen, time.perf_counter() - started)
        return Answers(zip(names, logits, strict=True), chosen)

    def run_on_device(
        self, feeds: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str] | None = None, drop: int | None = None
    ) -> dict[str, Any]:
        """As `run`, but the logits stay where they were computed: name -> `onnxruntime.OrtValue`, on the GPU for "cuda" and
        "tensorrt", for a next step there. `.numpy()` copies one to the host. No hook and no policy sees it.

        Raises:
            InputError: as `run`.
        """
        entries = chosen_tasks(self.manifest, tasks)
        check_drop(drop, self.drops, "loaded")
        outputs = [output for entry in entries for output in entry.outputs]
        values = self._opened.bound(self._graph(drop), outputs, check_feeds(feeds, self.manifest))
        return dict(zip((name for entry in entries for name in entry.answers), values, strict=True))

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
        routed = self._routed(self.drops[0] if drop is None else drop)
        if routed is None:
            raise InputError(
                "run_routed(): this bundle has no routed graph; export it again with `python -m exporter --routed`"
            )
        return routed.rows(check_feeds(feeds, self.manifest), tasks, rows)

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

    def _graph(self, drop: int | None) -> str:
        return self.manifest.variant(self.drops[0] if drop is None else drop).model

    def _routed(self, drop: int) -> RoutedGraph | None:
        graph = self.manifest.variant(drop).routed
        return RoutedGraph(self._opened, graph, self.manifest) if graph else None

    def _choose(self, drop: int | None) -> int:
        if drop is not None:
            return drop
        if self.policy is None:
            return self.drops[0]
        check_drop(chosen := self.policy.choose(self.drops), self.drops, "loaded")
        return chosen


def _described(provider: str, drop: int, tasks: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> Run:
    first = next(iter(feeds.values()))
    tokens = int(feeds["attention_mask"].sum()) if "attention_mask" in feeds else len(first)
    return Run(provider, drop, tuple(tasks), len(first), first.shape[1] if first.ndim == 2 else 1, tokens)
