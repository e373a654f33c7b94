"""The metric of a task as a function of sums over texts, which a bootstrap can resample.

Classification and tagging: accuracy, over texts and over words. Multi-label: micro F1. Regression: Pearson's correlation, the
mean over the outputs. A metric is computed from the column sums of a matrix with one row per text, so that thousands of
resamples are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
METRICS = {"classification": "accuracy", "tagging": "accuracy", "multilabel": "micro F1", "regression": "pearson"}
_RESAMPLES, _CHUNK = 2000, 250
# Sums of one output of a regression: prediction, label, their squares, their product, number.
_MOMENTS = 6
_TAIL = 2.5  # percent on each side


@dataclass(frozen=True)
class Estimate:
    """The share of its metric that a task loses at a drop, relative to drop 0.

    Attributes:
        metric: the metric at this drop.
        loss: 1 - metric / metric at drop 0.
        low: lower end of the 95 % interval of `loss`.
        high: upper end.
    """

    metric: float
    loss: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def text_sums(kind: str, logits: Array, expected: Array, centre: Array | float = 0.0) -> Array:
    """Return the terms of the metric's sums, one row per text: [texts, terms].

    Args:
        kind: head type.
        logits: [texts, labels]; tagging: [texts, words, labels].
        expected: ids [texts], for tagging [texts, words] with -1 where there is no word; 0 or 1 [texts, labels] for
            multi-label; [texts, outputs] for regression.
        centre: of a regression, the mean of all labels, [outputs]: the moments of numbers far from 0 would cancel.
    """
    if kind == "regression":
        y = expected.reshape(len(expected), -1) - centre
        x = logits.astype(np.float64).reshape(len(logits), -1) - centre
        return np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], -1).reshape(len(x), -1)
    if kind == "multilabel":
        found, truth = logits > 0, expected > 0
        return np.stack([2 * (found & truth).sum(1), found.sum(1) + truth.sum(1)], 1).astype(np.float64)
    right = (logits.argmax(-1) == expected).reshape(len(expected), -1)
    counted = (expected >= 0).reshape(len(expected), -1)
    return np.stack([(right & counted).sum(1), counted.sum(1)], 1).astype(np.float64)


def by_text(rows: Array, numbers: Array) -> Array:
    """Add the rows of equal texts: copies of a text are one observation, not several.

    Args:
        rows: result of `text_sums`.
        numbers: number of the different text of each row.
    """
    found = np.zeros((int(numbers.max()) + 1, rows.shape[1]))
    np.add.at(found, numbers, rows)
    return found


def metric(kind: str, sums: Array) -> Array:
    """Return the metric of column sums, [..., terms] -> [...]; 0 where it is undefined, as for constant predictions."""
    if kind != "regression":
        return _divided(sums[..., 0], sums[..., 1])
    moments = sums.reshape(*sums.shape[:-1], -1, _MOMENTS)
    x, y, xx, yy, xy = np.moveaxis(moments / moments[..., -1:], -1, 0)[:5]
    return np.asarray(_divided(xy - x * y, np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 0.0))).mean(-1))


def _divided(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def estimates(kind: str, by_drop: list[Array], seed: int = 0) -> list[Estimate]:
    """Estimate the loss at each drop by a paired bootstrap: every resample draws the same texts at all drops.

    A bootstrap of texts whose predictions did not change has an interval of no width. With n texts, a loss of up to 3 / n is
    nevertheless possible with 95 % (the rule of three), which is the least margin for all metrics.

    Args:
        kind: head type.
        by_drop: result of `text_sums` at each drop, drop 0 first, with one row per different text.
        seed: seed of the resamples.
    """
    draw = np.random.default_rng(seed)
    count = len(by_drop[0])
    values = np.array([float(metric(kind, rows.sum(0))) for rows in by_drop])
    resampled = []
    for _ in range(0, _RESAMPLES, _CHUNK):
        weights = draw.multinomial(count, np.full(count, 1 / count), _CHUNK).astype(np.float64)
        resampled.append(np.stack([metric(kind, weights @ rows) for rows in by_drop]))
    low, high = np.percentile(_losses(np.concatenate(resampled, 1)), [_TAIL, 100 - _TAIL], axis=1)
    found, least = [Estimate(float(values[0]), 0.0, 0.0, 0.0)], 3 / count
    for number, loss in enumerate(_losses(values).tolist()[1:], 1):
        ends = min(low[number], loss - least), max(high[number], loss + least)
        found.append(Estimate(float(values[number]), loss, *map(float, ends)))
    return found


def _losses(values: Array) -> Array:
    """Return the losses relative to the first row; 0 where that is not above 0, as there is nothing to lose."""
    base = np.broadcast_to(values[:1], values.shape)
    return np.where(base > 0, 1 - _divided(values, base), 0.0)
