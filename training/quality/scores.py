"""Scores and retained shares from the predictions, with their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.quality.answers import accuracy
from training.quality.methods import SPECIALISED
from training.quality.results import Results

# Published for eight GLUE tasks on RoBERTa-base, arXiv 2010.11918, section 3.1; percent of the score of standard adapters.
PUBLISHED = {"specialised": 97.1, "robust": 95.4}
_SAMPLES = 2000


class Spread(NamedTuple):
    """A mean over seeds, with the lowest and highest."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.mean(values), min(values), max(values))


class Scores:
    """The accuracy of each adapter at each drop."""

    def __init__(self, results: Results) -> None:
        """Compare predictions with labels.

        Args:
            results: the content of a results file.
        """
        self._results = results
        self._predictions = {row.key: row.predictions for row in results.answers}
        self.tasks = tuple(dict.fromkeys(row.task for row in results.answers))
        self.methods = tuple(dict.fromkeys(row.method for row in results.answers))
        self.precisions = tuple(sorted({row.precision for row in results.answers}, key=lambda name: (name != "fp32", name)))
        self.drops = tuple(sorted({row.drop for row in results.answers}))
        self.seeds = tuple(sorted({row.seed for row in results.answers}))

    def drops_of(self, precision: str) -> set[int]:
        """Return the drops that were measured in a precision."""
        return {drop for *_, own, drop in self._predictions if own == precision}

    def predictions(self, task: str, method: str, seed: int, precision: str, drop: int) -> str | None:
        """Return the predictions of an adapter; None if it was not measured.

        A specialised adapter has nothing to drop in its lowest layers: its graph is the same for all of these drops.
        """
        if method == "specialised":
            drop = max(drop, SPECIALISED)
        return self._predictions.get((task, method, seed, precision, drop))

    def score(self, task: str, method: str, precision: str, drop: int) -> Spread | None:
        """Return the accuracy over seeds; None if nothing was measured."""
        found = [self.predictions(task, method, seed, precision, drop) for seed in self.seeds]
        values = [accuracy(each, self._results.expected[task]) for each in found if each]
        return Spread.of(values) if values else None

    def baseline(self, task: str) -> float:
        """Return the accuracy of the most frequent label of the test set."""
        expected = self._results.expected[task]
        return max(map(expected.count, set(expected))) / len(expected)

    def retained(self, method: str, precision: str, drop: int) -> Spread | None:
        """Return the mean over tasks of the score relative to that of standard adapters without a drop in fp32, over seeds.

        None unless a seed has all tasks, and the standard adapter of each is right at least once.
        """
        found = [each for seed in self.seeds if (each := self._retained(method, precision, drop, seed)) is not None]
        return Spread.of(found) if found else None

    def _retained(self, method: str, precision: str, drop: int, seed: int) -> float | None:
        pairs = self._pairs(method, precision, drop, seed)
        if pairs is None:
            return None
        return statistics.mean(float(own.mean() / whole.mean()) for own, whole in pairs)

    def interval(self, method: str, precision: str, drop: int) -> tuple[float, float] | None:
        """Return the 95 % interval of the retained share.

        It is that of a bootstrap over the test texts of each task, the same for all adapters, and over the seeds.
        """
        pairs = [each for seed in self.seeds if (each := self._pairs(method, precision, drop, seed)) is not None]
        if not pairs:
            return None
        generator = np.random.default_rng(0)
        # [tasks][own or whole][seeds, texts]
        stacked = [[np.stack(column) for column in zip(*each, strict=True)] for each in zip(*pairs, strict=True)]
        values = []
        for _ in range(_SAMPLES):
            seeds = generator.integers(0, len(pairs), len(pairs))
            means = []
            for own, whole in stacked:
                texts = generator.integers(0, own.shape[1], own.shape[1])
                means.append((own[seeds][:, texts].mean(), whole[seeds][:, texts].mean()))
            # A few texts may all be wrong in a sample.
            if all(whole for _, whole in means):
                values.append(float(np.mean([own / whole for own, whole in means])))
        low, high = np.percentile(values, (2.5, 97.5))
        return float(low), float(high)

    def _pairs(self, method: str, precision: str, drop: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Per task, which texts are right: of the adapter, and of the standard one without a drop."""
        found = []
        for task in self.tasks:
            own = self.predictions(task, method, seed, precision, drop)
            whole = self.predictions(task, "standard", seed, "fp32", 0)
            if own is None or whole is None:
                return None
            expected = self._results.expected[task]
            count = min(len(own), len(whole))
            rights = [
                np.array([one == other for one, other in zip(each[:count], expected, strict=False)]) for each in (own, whole)
            ]
            if not rights[1].any():
                return None
            found.append((rights[0], rights[1]))
        return found

    def agreement(self, precision: str) -> float | None:
        """Return the share of predictions that are those of the same adapter and drop in fp32."""
        equal = total = 0
        for key, own in self._predictions.items():
            other = self._predictions.get((*key[:3], "fp32", key[4]))
            if key[3] == precision and other is not None:
                pairs = list(zip(own, other, strict=False))
                equal, total = equal + sum(one == two for one, two in pairs), total + len(pairs)
        return equal / total if total else None
