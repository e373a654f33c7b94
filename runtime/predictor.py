"""The predictor: inference on a loaded bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy.typing as npt

from runtime.array_predictor import Answers
from runtime.bundle import TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.requests import TaskSelection, check_drop, check_pairs, find_tasks, require_encoder
from runtime.encoding_predictor import EncodingPredictor
from runtime.errors import InputError
from runtime.states.cascade_step import CascadeStep
from runtime.text.cascade import Cascade
from runtime.text.predict import predict, predict_routed, tokenize
from runtime.text.predict_options import Aggregate, PredictOptions
from runtime.text.prediction import Entity, Prediction, Word
from runtime.text.texts import Text
from runtime.text_streams import TextStreams

__all__ = ["Answers", "Entity", "Prediction", "Predictor", "Word"]


@dataclass(frozen=True, eq=False)
class Predictor(EncodingPredictor, TextStreams):
    """A loaded bundle, created by `load`. It is thread-safe, and immutable but for the tasks that `add_task` adds.

    Attributes:
        manifest: manifest of the bundle.
        drops: loaded drops (number of lowest layers without adapters); the first one is the default.
        options: session options, as passed to `load`.
        policy: drop policy, as passed to `load`.
        hooks: hooks around every run, as passed to `load`.
    """

    def predict(
        self,
        texts: Sequence[Text],
        tasks: Sequence[str | TaskEntry] | None = None,
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        cancel: Cancellation | None = None,
        *,
        aggregate: Aggregate | None = None,
        stride: int | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        is_split_into_words: bool = False,
        cascade: Sequence[tuple[int, float]] | None = None,
    ) -> dict[str, list[Prediction]]:
        """Tokenize texts, run inference and interpret the logits.

        Args:
            texts: list of str and of pairs (str, str). Question answering requires pairs (question, context). For multiple
                choice, pass each choice of a question as one pair and compare the values.
            tasks: names of the tasks, or their entries; None for all tasks of the bundle.
            drop: drop of the variant; None uses the policy, or the first drop without a policy.
            truncate: truncate texts that exceed the model's maximum, the longer one of a pair first. The truncated part has
                no words and no answers. By default, such texts are an error.
            batch_size: maximum number of rows of a batch; texts of similar length share a batch.
            cancel: handle that can cancel the call from another thread.
            aggregate: predict entities instead of words for tagging. "simple" groups neighbouring tokens with the same label;
                "first", "max" and "average" give each word one label before. The results are those of transformers' pipeline
                with this `aggregation_strategy`. Texts must not be pairs.
            stride: divide texts that exceed the model's maximum into windows that share this number of tokens, and merge
                their entities; only with `aggregate`, and only for tagging.
            threshold: least probability of a label in `labels` for multilabel tasks; None for 0.5.
            top_k: number of labels in `scores` for classification and multilabel tasks, the most probable ones in descending
                order; None for all labels in the order of the task.
            is_split_into_words: `texts` is a list of lists of words. Positions are those in the words joined by spaces.
            cascade: pairs of a drop and a threshold, for classification: the first variant predicts all texts; those whose
                label has a lower probability than the threshold go on to the next, per task. The last variant predicts the
                rest, whatever its threshold. With `--split`, the layers that the variants share are computed once per text,
                if the drops are in descending order.

        Returns:
            Task -> one prediction per text, in the order of `tasks` and `texts`. `Prediction.drop` is the variant that gave it.

        Raises:
            AdapterDropError: the logits of a text are NaN or infinite; the message names the task and the text.
            InputError: as for `run`; a text has the wrong type or is too long; a text is not a pair although question
                answering requires one; an option is invalid or has no meaning for the tasks; the bundle has no tokenizer or
                takes images; or a task needs more than a text (causal_lm, seq2seq_lm, dependency_parsing, hidden_states,
                pooled_states, image_embedding: call `run` for it) or gives an embedding (sentence_embedding: call
                `encode_texts`): name the other tasks in `tasks`.
        """
        entries = self.entries(tasks)
        check_drop(drop, self.drops, "loaded")
        options = PredictOptions(
            truncate=truncate,
            batch_size=batch_size,
            aggregate=aggregate,
            stride=stride,
            threshold=threshold,
            top_k=top_k,
            is_split_into_words=is_split_into_words,
        )
        encoder = require_encoder(self.manifest, self._encoder, entries)
        options.check_tasks(entries, encoder)
        self._bundle.here()  # before the tokenizer: in a forked process, the provider may be unusable
        windows = tokenize(encoder, texts, entries, options)
        check_pairs(entries, texts)
        if cascade is not None:
            if drop is not None:
                raise InputError("predict(): expected either drop or cascade, found both")
            chain = Cascade.of(cascade, self.drops, entries, options)
            step = CascadeStep(
                windows=windows,
                encoder=encoder,
                options=options,
                splits=self._splits,
                limits=self._limits,
                batches=self._batches(encoder, batch_size),
                run_whole=lambda selection, feeds, drop: self._run_selected(selection, feeds, drop, cancel),
                run_branches=lambda runs, values, selection, rows: self._branches(runs, values, selection, rows, cancel),
                observe=lambda drop, names, feeds, logits: self._observed(drop, names, feeds, 0, logits),
                where=f"provider {self.provider}, {self.manifest.precision}",
                cancel=cancel,
            )
            return chain.run(len(windows), entries, step)
        if stride is not None:
            drop = self._chosen_drop(drop)  # the same for all windows of a text
        # Looked up once: other threads may replace or remove tasks between two batches.
        selection = TaskSelection.of(entries)

        def run(feeds: Mapping[str, npt.NDArray[Any]]) -> tuple[Answers, int]:
            answers = self._run_selected(selection, feeds, drop, cancel)
            return answers, answers.drop

        batches = self._batches(encoder, batch_size)([window.tokens for window in windows])
        return predict(windows, batches, run, entries, encoder, options, f"provider {self.provider}, {self.manifest.precision}")

    def predict_routed(
        self,
        texts: Sequence[Text],
        tasks: Sequence[str | TaskEntry | Sequence[str | TaskEntry]],
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Prediction]]:
        """Predict other tasks for each text, with the routed graph: texts of different tasks share a batch.

        Args:
            texts: as for `predict`.
            tasks: for each text the name of its task or its entry, or a list of these.
            drop: as for `predict`.
            truncate: as for `predict`.
            batch_size: maximum number of texts of a batch.
            threshold: as for `predict`.
            top_k: as for `predict`.

        Returns:
            For each text, task -> prediction, in the order of its tasks.

        Raises:
            AdapterDropError: as for `predict`.
            InputError: as for `predict`; the number of entries of `tasks` differs from the number of texts; or the bundle was
                exported without `--routed` (tasks that were added: without slots for the others).
        """
        if isinstance(tasks, str) or not isinstance(tasks, Sequence):
            raise InputError(f"tasks: expected a list with an entry per text, found {type(tasks).__name__}")
        wanted = [(names,) if isinstance(names, str | TaskEntry) else tuple(names) for names in tasks]
        if len(wanted) != len(texts) or not all(wanted):
            found = f"{len(wanted)}, {sum(not names for names in wanted)} of them empty"
            raise InputError(f"tasks: expected at least one name for each of {len(texts)} text(s), found entries: {found}")
        # Looked up once: other threads may replace or remove tasks between two batches.
        looked_up = iter(find_tasks(self.manifest, [name for own in wanted for name in own], self._added, self._versions))
        per_text = [list({entry.name: entry for entry in islice(looked_up, len(own))}.values()) for own in wanted]
        entries = tuple({id(entry): entry for own in per_text for entry in own}.values())
        if not self._routes(entries):
            raise InputError("predict_routed(): this bundle has no routed graph for these tasks; export it with --routed")
        check_drop(drop, self.drops, "loaded")
        options = PredictOptions(truncate=truncate, batch_size=batch_size, threshold=threshold, top_k=top_k)
        encoder = require_encoder(self.manifest, self._encoder, entries)
        options.check_tasks(entries, encoder)
        self._bundle.here()
        windows = tokenize(encoder, texts, entries, options)

        def run(
            feeds: Mapping[str, npt.NDArray[Any]], chosen: list[TaskEntry], rows: list[int]
        ) -> tuple[list[npt.NDArray[Any]], int]:
            actual = self._chosen_drop(drop)
            return self._run_rows(feeds, chosen, rows, actual), actual

        batches = self._batches(encoder, batch_size)([window.tokens for window in windows])
        where = f"provider {self.provider}, {self.manifest.precision}"
        return predict_routed(windows, batches, run, per_text, encoder, options, where)
