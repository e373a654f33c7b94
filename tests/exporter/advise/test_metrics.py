"""Metrics from sums over texts, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.advise.metrics import by_text, estimates, metric, text_sums

_DRAW = np.random.default_rng(0)


def test_accuracy() -> None:
    logits, labels = _DRAW.normal(size=(50, 3)), _DRAW.integers(0, 3, 50)
    found = metric("classification", text_sums("classification", logits, labels).sum(0))
    assert float(found) == pytest.approx(np.mean(logits.argmax(1) == labels))


def test_accuracy_over_words_leaves_out_padding() -> None:
    logits = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    found = metric("tagging", text_sums("tagging", logits, np.array([[1, 1], [1, -1]])).sum(0))
    assert float(found) == pytest.approx(2 / 3)


def test_micro_f1() -> None:
    logits, labels = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    found = metric("multilabel", text_sums("multilabel", logits, labels).sum(0))
    assert float(found) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_correlation_far_from_zero() -> None:
    labels = _DRAW.normal(size=(80, 2)) + 1000
    logits = labels + _DRAW.normal(size=(80, 2))
    expected = np.mean([np.corrcoef(logits[:, column], labels[:, column])[0, 1] for column in (0, 1)])
    assert float(metric("regression", text_sums("regression", logits, labels).sum(0))) == pytest.approx(expected)


def test_interval_contains_the_loss_and_narrows() -> None:
    margins = []
    for texts in (100, 1600):
        right = np.ones((texts, 2))
        worse = right.copy()
        worse[: texts // 20, 0] = 0
        first, second = estimates("classification", [right, worse])
        assert (first.loss, first.margin) == (0.0, 0.0)
        assert second.loss == pytest.approx(0.05)
        assert second.low < second.loss < second.high
        margins.append(second.margin)
    assert margins[1] < margins[0] / 2


def test_few_texts_prove_no_small_loss() -> None:
    same = np.ones((20, 2))
    assert estimates("classification", [same, same])[1].high >= 3 / 20


def test_copies_of_texts_narrow_no_interval() -> None:
    right = np.stack([_DRAW.random(40) < 0.9, np.ones(40)], 1).astype(float)
    worse = np.stack([_DRAW.random(40) < 0.7, np.ones(40)], 1).astype(float)
    copies = np.repeat(np.arange(40), 25)
    once = estimates("classification", [right, worse])
    assert estimates("classification", [by_text(rows[copies], copies) for rows in (right, worse)]) == once
    assert estimates("classification", [right[copies], worse[copies]])[1].margin < once[1].margin / 4
