"""Cascades: the cheapest variant predicts first, and texts whose labels are uncertain go on to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from runtime.bundle import TaskEntry
from runtime.errors import InputError
from runtime.text.predict_options import PredictOptions
from runtime.text.prediction import Prediction

# (drop, rows, tasks) -> task -> row -> prediction
RunStep: TypeAlias = Callable[[int, list[int], list[TaskEntry]], Mapping[str, Mapping[int, Prediction]]]


@dataclass(frozen=True)
class Cascade:
    """The variants of a cascade in their order.

    Attributes:
        steps: pairs of a drop and the least probability of the predicted label with which its prediction is final.
    """

    steps: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, given: Any, drops: Sequence[int], entries: Sequence[TaskEntry], options: PredictOptions) -> "Cascade":
        """Check what a caller passed.

        Args:
            given: the argument `cascade` of `Predictor.predict`.
            drops: loaded drops.
            entries: manifest entries of the tasks.
            options: options of the call.

        Raises:
            InputError: it is no list of pairs of different loaded drops and thresholds, a task has no probability of its label,
                or an option does not fit.
        """
        pairs = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            raise InputError(f"cascade: expected a list of (drop, threshold), such as [(8, 0.9), (0, 0)], found {given!r:.100}")
        problems = []
        for drop, threshold in pairs:
            if isinstance(drop, bool) or not isinstance(drop, int) or drop not in drops:
                problems.append(f"the drops {', '.join(map(str, drops))}, found {drop!r}")
            if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.floating) or not 0 <= threshold <= 1:
                problems.append(f"thresholds from 0 to 1, found {threshold!r:.40}")
        found = [pair[0] for pair in pairs]
        if not problems and len(set(found)) < len(found):
            problems.append(f"each drop once, found {', '.join(map(str, found))}")
        if wrong := [f"{entry.name} ({entry.head})" for entry in entries if entry.head != "classification"]:
            problems.append(f"tasks with a probability for one label, found {', '.join(wrong)}: select the others with tasks=")
        if options.aggregate is not None:
            problems.append("no aggregate, which is for tagging")
        if problems:
            raise InputError(f"cascade: expected {'; '.join(problems)}")
        return cls(tuple((int(drop), float(threshold)) for drop, threshold in pairs))

    def run(self, count: int, entries: Sequence[TaskEntry], step: RunStep) -> dict[str, list[Prediction]]:
        """Predict all texts.

        Args:
            count: number of texts.
            entries: manifest entries of the tasks.
            step: function that predicts some tasks for some rows with one drop.

        Returns:
            Task -> one prediction per text, whose `drop` is that of the variant which gave it.
        """
        done: dict[str, dict[int, Prediction]] = {entry.name: {} for entry in entries}
        for number, (drop, threshold) in enumerate(self.steps):
            open_rows = {name: [row for row in range(count) if row not in found] for name, found in done.items()}
            rows = sorted({row for found in open_rows.values() for row in found})
            if not rows:
                break
            waiting = [entry for entry in entries if open_rows[entry.name]]
            is_last = number == len(self.steps) - 1
            for name, predictions in step(drop, rows, waiting).items():
                for row in open_rows[name]:
                    prediction = predictions[row]
                    if is_last or (prediction.score or 0.0) >= threshold:
                        done[name][row] = prediction
        return {name: [found[row] for row in range(count)] for name, found in done.items()}
