"""`load` a bundle into a `Predictor`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.batch import TEXT_INPUTS, Text, TextEncoder
from runtime.bundle import Manifest, TaskEntry, check_files, read_manifest
from runtime.errors import AdapterDropError, InputError
from runtime.feeds import check_feeds
from runtime.interpret import TOKENWISE, interpret
from runtime.prediction import FIELDS, Prediction, Word
from runtime.providers import short_name
from runtime.routed import RoutedGraph, open_routed
from runtime.session import open_session

__all__ = ["Prediction", "Predictor", "Word", "load"]


def load(
    folder: str | os.PathLike[str],
    provider: str = "auto",
    drop: int | None = None,
    threads: int | None = None,
    verify: bool = True,
) -> "Predictor":
    """Load the bundle in `folder`.

    Args:
        provider: "cpu", "cuda", "tensorrt" or "openvino"; "auto" takes the best that works here.
        drop: load the variant of that drop alone; None loads all of them, so that `run` and `predict` can choose.
        threads: threads within one operation; None leaves it to ONNX Runtime.
        verify: compare every file's sha256 with the manifest. Missing files are refused in any case.

    Raises:
        BundleError: the folder is no bundle, or a file of it is missing, altered or not loadable.
        ProviderError: the provider is unknown, not installed or not working.
        InputError: `drop` was not exported, or `threads` is not a positive integer.
    """
    manifest = read_manifest(folder)
    _check_drop(drop, manifest.drops, "exported")
    check_files(folder, manifest, contents=verify)
    drops = manifest.drops if drop is None else (drop,)
    sessions = {each: open_session(Path(folder), manifest, provider, threads, each) for each in drops}
    routed = {each: open_routed(Path(folder), manifest, provider, threads, each) for each in drops}
    return Predictor(manifest, sessions, routed, TextEncoder.load(Path(folder), manifest) if manifest.tokenizer else None)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A loaded bundle; made by `load`. Nothing in it changes afterwards: many threads may share one."""

    manifest: Manifest
    _sessions: Mapping[int, Any]
    _routed: Mapping[int, RoutedGraph | None]
    _encoder: TextEncoder | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, in the order of the export."""
        return tuple(task.name for task in self.manifest.tasks)

    @property
    def drops(self) -> tuple[int, ...]:
        """The numbers of lowest layers without adapters that are loaded; the first is the default."""
        return tuple(self._sessions)

    @property
    def provider(self) -> str:
        """What really runs, as ONNX Runtime reports it: "cpu", "cuda", "tensorrt" or "openvino"."""
        return short_name(self._sessions[self.drops[0]].get_providers()[0])

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str] | None = None, drop: int | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Logits of `tasks` (None = all), in that order, by the name of the task; a task with several outputs has one key for
        each, whatever the graph calls them: "task.start_logits" and "task.end_logits" for question answering,
        "task.rel_preds" and "task.arc_preds" for dependency parsing.

        Shapes: [batch, labels]; [batch, sequence, labels] for tagging; [batch, sequence, vocabulary] for language models
        (of the decoder's sequence for seq2seq_lm); [batch, sequence] twice for question answering; [rows, 1] for multiple
        choice, where a row is one choice of one question.

        `drop`: which variant answers, one of `drops`; None takes the first. Where the bundle has a routed graph, some of the
        tasks cost only what they need, with logits that are equal to rounding; without one, all tasks are computed.

        `feeds`: the inputs of `manifest.inputs`, each of its dtype, shape and limit. `attention_mask` (1 = token,
        0 = padding) must be given; `token_type_ids` may be left out and is then all zeros, as in transformers.

        Raises:
            InputError: names every mismatch of the feeds; an unknown task; a drop that was not loaded.
        """
        entries = self._entries(tasks)
        _check_drop(drop, self.drops, "loaded")
        checked = check_feeds(feeds, self.manifest)
        drop = self.drops[0] if drop is None else drop
        if len(entries) < len(self.tasks) and (routed := self._routed[drop]) is not None:
            # Not RunOptions.only_execute_path_to_fetches: inference builds of ONNX Runtime ignore it (1.31 and 1.32 do).
            return routed.subset(checked, entries)
        session = self._sessions[drop]
        try:
            logits = session.run([output for entry in entries for output in entry.outputs], checked)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in checked.items())
            raise AdapterDropError(f"ONNX Runtime ({self.provider}) failed on {shapes}: {error}") from error
        return dict(zip((name for entry in entries for name in entry.answers), logits, strict=True))

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
        _check_drop(drop, self.drops, "loaded")
        routed = self._routed[self.drops[0] if drop is None else drop]
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
        batch_size: int = 32,
    ) -> dict[str, list[Prediction]]:
        """Predictions of `tasks` (None = all), in that order, for every text, in the order of `texts`.

        `texts`: a list of str and of pairs (str, str); question answering takes pairs (question, context) only. In multiple
        choice a text is one choice: give each choice of a question as a pair of its own and compare the values. Over-long
        texts are an error unless `truncate`, which cuts the longer one of a pair first; beyond the cut there are no words
        and no answers. Texts of similar length share a batch of at most `batch_size` rows.

        Raises:
            InputError: as `run`; texts that are none or too long, or no pairs for question answering; a bundle without a
                tokenizer or with images; a task of which a text tells too little (causal_lm, seq2seq_lm,
                dependency_parsing): call `run` for it, or name the others in `tasks`.
        """
        entries = self._entries(tasks)
        _check_drop(drop, self.drops, "loaded")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, found {batch_size!r}")
        encoder = self._checked_encoder(entries)
        rows = encoder.encode(texts, truncate)
        _check_pairs(entries, texts)
        found: dict[str, dict[int, Prediction]] = {entry.name: {} for entry in entries}
        for batch in encoder.batches(rows, batch_size):
            logits = self.run(batch.feeds, tuple(found), drop)
            width = batch.feeds["input_ids"].shape[1]
            for place, index in enumerate(batch.rows):
                for entry in entries:
                    values = [logits[name][place] for name in entry.answers]
                    if entry.head in TOKENWISE:  # without the padding
                        start = encoder.offset(rows[index], width)
                        values = [array[start : start + len(rows[index])] for array in values]
                    found[entry.name][index] = interpret(entry, values, texts[index], rows[index], encoder)
        return {name: [answers[index] for index in range(len(texts))] for name, answers in found.items()}

    def _entries(self, tasks: Sequence[str] | None) -> tuple[TaskEntry, ...]:
        if tasks is None:
            return self.manifest.tasks
        if isinstance(tasks, str) or not isinstance(tasks, Sequence):
            raise InputError(f"tasks: expected a list of names or None, found {type(tasks).__name__}; pass [name]")
        known = {task.name: task for task in self.manifest.tasks}
        if unknown := [name for name in tasks if name not in known]:
            raise InputError(f"tasks: expected some of {', '.join(known)}, found {', '.join(map(repr, unknown))}")
        if not tasks:
            raise InputError(f"tasks: expected some of {', '.join(known)}, found an empty list; None takes all")
        return tuple(known[name] for name in dict.fromkeys(tasks))  # a task that is named twice is answered once

    def _checked_encoder(self, entries: Sequence[TaskEntry]) -> TextEncoder:
        """The encoder, where texts alone are enough for every one of `entries`."""
        refusal = "call run()"
        if silent := [task for task in entries if task.head not in FIELDS]:
            found = ", ".join(f"{task.name} ({task.head})" for task in silent)
            others = ", ".join(task.name for task in self.manifest.tasks if task.head in FIELDS)
            choice = f"{refusal}, or name others in tasks: {others}" if others else refusal
            raise InputError(f"tasks: predict() expects tasks that a text alone answers, found {found}; {choice}")
        # A decoder's inputs belong to the seq2seq tasks alone where there are such (InputEntry), so that any value does here
        dummies = {"word_starts"}
        if any(task.head == "seq2seq_lm" for task in self.manifest.tasks):
            dummies |= {"decoder_input_ids", "decoder_attention_mask"}
        names = [entry.name for entry in self.manifest.inputs]
        if missing := [name for name in names if name not in {*TEXT_INPUTS, *dummies}]:
            raise InputError(
                f"predict() expects a graph that takes texts alone, this one takes {', '.join(missing)}; {refusal}"
            )
        if self._encoder is None:
            raise InputError("this bundle was exported without a tokenizer: tokenize the texts yourself and call run()")
        if (masked := [task.name for task in entries if task.head == "masked_lm"]) and self._encoder.mask_id is None:
            found = "neither tokenizer_config.json nor special_tokens_map.json names one that it knows"
            raise InputError(f"task {masked[0]}: expected a tokenizer with a mask token, {found}; {refusal}")
        return self._encoder


def _check_pairs(entries: Sequence[TaskEntry], texts: Sequence[Text]) -> None:
    tasks = [entry.name for entry in entries if entry.head == "question_answering"]
    if tasks and (single := [index for index, text in enumerate(texts) if isinstance(text, str)]):
        found = ", ".join(f"texts[{index}]" for index in single[:10]) + (", …" if len(single) > 10 else "")
        raise InputError(f"task {tasks[0]}: expected pairs (question, context), found a single text: {found}")


def _check_drop(drop: int | None, drops: tuple[int, ...], what: str) -> None:
    if drop is not None and (isinstance(drop, bool) or drop not in drops):
        raise InputError(
            f"drop: this bundle was {what} with {', '.join(map(str, drops))}, found {drop!r}; take that, or export again "
            f"with `python -m exporter --drop {drop}`"
        )
