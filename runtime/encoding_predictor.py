"""Encoding of texts: states of the trunk, and embeddings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from runtime.array_predictor import Answers
from runtime.bundle import TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.requests import TaskSelection, check_drop, require_texts, select_embeddings
from runtime.state_predictor import StatePredictor
from runtime.states.trunk_states import Row, TrunkStates
from runtime.text.embed import EmbeddingCall
from runtime.text.encode import Batch, TextEncoder
from runtime.text.predict_options import PredictOptions
from runtime.text.prompts import prompts_of
from runtime.text.texts import Text
from runtime.text.tokens import Tokens


@dataclass(frozen=True, eq=False)
class EncodingPredictor(StatePredictor):
    """The part of a predictor that encodes texts as states of the trunk and as embeddings."""

    _encoder: TextEncoder | None

    def encode(
        self,
        texts: Sequence[Text],
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        cancel: Cancellation | None = None,
    ) -> TrunkStates:
        """Compute the states of the trunk for texts, to run tasks on them later with `run_branches`.

        Args:
            texts: list of str and of pairs (str, str).
            drop: drop of the variant, whose lowest layers are the trunk; None for the first one that is split.
            truncate: truncate texts that exceed the model's maximum. By default, such texts are an error.
            batch_size: maximum number of rows of a batch; texts of similar length share a batch.
            cancel: handle that can cancel the call from another thread.

        Returns:
            The states of each text, in the order of the texts.

        Raises:
            InputError: as for `predict`; or the bundle was exported without `--split`.
        """
        PredictOptions(truncate=truncate, batch_size=batch_size)  # checks them
        runs = self._split_runs(drop)
        encoder = require_texts(self.manifest, self._encoder, (), "encode()")
        tokens = encoder.encode(texts, truncate)
        rows: list[Row] = [{}] * len(tokens)
        for batch in self._batches(encoder, batch_size)(tokens):
            for index, row in zip(batch.rows, runs.states(batch.feeds, len(batch.rows), cancel), strict=True):
                rows[index] = row
        return TrunkStates(runs.graph.entry.states, tuple(rows), runs.drop)

    def encode_texts(
        self,
        texts: Sequence[Text],
        tasks: Sequence[str | TaskEntry] | None = None,
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        cancel: Cancellation | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute the embeddings of texts, as `encode` of sentence-transformers.

        Args:
            texts: list of str and of pairs (str, str).
            tasks: names of tasks that give embeddings (sentence_embedding, text_embedding); None for all of them.
            drop: drop of the variant; None uses the policy, or the first drop without a policy.
            truncate: truncate texts that exceed the model's maximum, as sentence-transformers does. By default, such texts are
                an error.
            batch_size: maximum number of rows of a batch; texts of similar length share a batch.
            prompt: text to put before each text, instead of the prompts of the tasks; "" for none.
            prompt_name: name of a prompt of the tasks; None for the default prompt of each task, if it has one.
            cancel: handle that can cancel the call from another thread.

        Returns:
            Task -> embeddings, float32 [texts, width], in the order of `tasks` and `texts`. They are of unit length if the
            model normalizes them.

        Raises:
            AdapterDropError: an embedding contains NaN or infinity; the message names the task and the text.
            InputError: as for `predict`; a task gives no embeddings, or has no prompt of this name.
        """
        entries = select_embeddings(self.manifest, tasks, self.entries)
        call = self._embedding_call("encode_texts()", entries, drop, truncate, batch_size, prompt, prompt_name)

        def run(feeds: Mapping[str, npt.NDArray[Any]], own: tuple[TaskEntry, ...]) -> Answers:
            return self._run_selected(TaskSelection.of(own), feeds, call.drop, cancel)

        return call.embed(texts, entries, run)

    def encode_texts_routed(
        self,
        texts: Sequence[Text],
        tasks: Sequence[str | TaskEntry],
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Compute the embedding of each text by one task, with the routed graph.

        Args:
            texts: as for `encode_texts`.
            tasks: name of the task of each text, or its entry.
            drop: drop of the variant; None uses the policy, or the first drop without a policy.
            truncate: as for `encode_texts`.
            batch_size: as for `encode_texts`.
            prompt: as for `encode_texts`.
            prompt_name: as for `encode_texts`.

        Returns:
            Embeddings, float32 [width of the task], in the order of `texts`.

        Raises:
            AdapterDropError: as for `encode_texts`.
            InputError: as for `encode_texts`; the number of tasks differs from the number of texts; or the bundle was exported
                without `--routed`.
        """
        entries = select_embeddings(self.manifest, tasks, self.entries)
        call = self._embedding_call("encode_texts_routed()", entries, drop, truncate, batch_size, prompt, prompt_name)
        by_name = {entry.name: entry for entry in entries}
        own = [by_name[task if isinstance(task, str) else task.name] for task in tasks or ()]
        return call.embed_routed(texts, own, lambda feeds, rows: self._run_rows(feeds, rows, range(len(rows)), call.drop))

    def _embedding_call(
        self,
        name: str,
        entries: Sequence[TaskEntry],
        drop: int | None,
        truncate: bool,
        batch_size: int | None,
        prompt: str | None,
        prompt_name: str | None,
    ) -> EmbeddingCall:
        check_drop(drop, self.drops, "loaded")
        PredictOptions(truncate=truncate, batch_size=batch_size)  # checks them
        encoder = require_texts(self.manifest, self._encoder, entries, name)
        prompts = prompts_of(entries, prompt, prompt_name)
        self._bundle.here()
        chosen = self._chosen_drop(drop)
        where = f"drop {chosen}, provider {self.provider}, {self.manifest.precision}"
        return EmbeddingCall(prompts, self._batches(encoder, batch_size), encoder, truncate, chosen, where)

    def _batches(self, encoder: TextEncoder, batch_size: int | None) -> Callable[[Sequence[Tokens]], Iterator[Batch]]:
        limits = self._limits
        shapes = self.options.cuda.graphs if self.provider == "cuda" else ()
        return lambda rows: encoder.batches(rows, limits, batch_size, shapes)

    def _padding(self) -> tuple[bool, int | None]:
        return (False, None) if self._encoder is None else (self._encoder.pad_left, self._encoder.pad_id)
