"""Measured metrics and times, kept in a folder, so that an interrupted run continues."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.advise.combinations import Branch, Combination, Templates
from exporter.advise.labels import Labels
from exporter.advise.measurement_files import replace_arrays, replace_text
from exporter.advise.metrics import Array, text_sums
from exporter.plan import Plan, Task
from exporter.texts.batches import Batch, Calibration
from exporter.verify.random_inputs import make_inputs
from runtime.ort.cpu import processor

# A pause before each call, as between the calls of a service.
_PAUSE_SECONDS = 0.02
_SECONDS, _LEAST, _MOST = 3.0, 7, 60
_SAVE_SECONDS = 15.0


class Measurements:
    """Metrics and times of branches and combinations; each is measured once."""

    def __init__(self, folder: Path, plan: Plan, templates: Templates, threads: int | None) -> None:
        """Keep measurements in `folder`.

        Args:
            folder: exists, and belongs to one model, its texts and its options.
            plan: the plan of all tasks.
            templates: compiles graphs.
            threads: threads within an operator; None for ONNX Runtime's default.
        """
        self._folder, self._plan, self._templates, self._threads = folder, plan, templates, threads

    def sums(
        self,
        task: Task,
        branches: Sequence[Branch],
        texts: Calibration,
        labels: Labels,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[Array]:
        """Return the terms of the metric's sums, [texts, terms] as in `text_sums`, for each branch of one task.

        All branches are outputs of one graph, which computes the trunk and what they have in common once.

        Args:
            task: the task.
            branches: what to measure.
            texts: its texts.
            labels: their labels.
            progress: called with the number of texts that are done.
        """
        number = [each.name for each in self._plan.tasks].index(task.name)
        kept = sorted({branch.keep for branch in branches if branch.keep is not None})
        path = self._folder / f"task{number}{''.join(f'-{keep}' for keep in kept)}.npz"
        if path.exists():
            with np.load(path) as saved:
                done, found = saved["done"], saved["sums"]
        else:
            done, found = np.zeros(len(texts.texts), bool), None
        if not done.all():
            with self._templates.session({str(each): each for each in branches}, self._threads) as (session, outputs):
                written = time.monotonic()
                for batch in texts.batches:
                    rows = list(batch.rows)
                    if done[rows].all():
                        continue
                    terms = _terms(task, labels, batch, session.run(list(outputs), _feeds(session, batch.feeds)))
                    if found is None:
                        found = np.zeros((len(branches), len(done), terms.shape[-1]))
                    found[:, rows], done[rows] = terms, True
                    if time.monotonic() - written > _SAVE_SECONDS or done.all():
                        progress(int(done.sum()))
                        replace_arrays(path, {"done": done, "sums": found})
                        written = time.monotonic()
        assert found is not None  # a file has at least one text
        return list(found)

    def seconds(self, wanted: Sequence[Combination], reference: Combination, shape: tuple[int, int]) -> dict[str, float]:
        """Measure the time of a call, as a multiple of the reference's in the same rounds.

        Load of the machine changes both, so that the multiple is steadier than the time. The time is the multiple of the
        median of all calls of the reference.

        Args:
            wanted: the combinations.
            reference: the combination with which each is interleaved.
            shape: batch and length.

        Returns:
            Name of the combination -> seconds.
        """
        # The folder may be moved to another machine.
        machine = hashlib.sha256(processor().encode()).hexdigest()[:8]
        path = self._folder / f"times-{shape[0]}x{shape[1]}-{self._threads or 'all'}-{machine}.json"
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        missing = {str(each): each for each in wanted if str(each) not in known}
        if missing:
            with self._templates.session(reference.branches, self._threads) as (first, _):
                for name, each in missing.items():
                    with self._templates.session(each.branches, self._threads) as (second, _):
                        known[name] = self.interleave(first, second, shape)
                    replace_text(path, json.dumps(known))
        base = statistics.median(each for one, _ in known.values() for each in one)
        ratios = {str(each): np.divide(known[str(each)][1], known[str(each)][0]) for each in wanted}
        return {name: base * statistics.median(ratio) for name, ratio in ratios.items()}

    def interleave(self, first: Any, second: Any, shape: tuple[int, int]) -> tuple[list[float], list[float]]:
        """Return the seconds of calls of two sessions, in rounds of one call each.

        Args:
            first: a session.
            second: a session.
            shape: batch and length of the random inputs.
        """
        feeds = make_inputs(self._plan, *shape)
        calls = [(each, _feeds(each, feeds)) for each in (first, second)]
        for session, own in calls:
            session.run(None, own)
        taken: tuple[list[float], list[float]] = [], []
        start = time.perf_counter()
        while len(taken[0]) < _LEAST or (time.perf_counter() - start < _SECONDS and len(taken[0]) < _MOST):
            for number in (0, 1) if len(taken[0]) % 2 else (1, 0):
                time.sleep(_PAUSE_SECONDS)
                session, own = calls[number]
                begin = time.perf_counter()
                session.run(None, own)
                taken[number].append(time.perf_counter() - begin)
        return taken


def _terms(task: Task, labels: Labels, batch: Batch, logits: Sequence[Array]) -> Array:
    """Return the terms of a batch, [branches, texts, terms]."""
    found = []
    for own in logits:
        rows = [labels.rows(text, *each) for text, *each in zip(batch.rows, own, batch.mask, strict=True)]
        expected = labels.expected[list(batch.rows)]
        found.append(text_sums(task.head.kind, np.stack(rows).astype(np.float64), expected, labels.centre))
    return np.stack(found)


def _feeds(session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {each.name: feeds[each.name] for each in session.get_inputs()}
