"""The chosen combination against all combinations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from exporter.advise.combinations import Combination
from exporter.advise.costs import Batch, CostModel, Counts, fit
from exporter.advise.search import front

_LAYERS = 3
_NAMES = ("a", "b", "c", "d")


def _counts(draw: np.random.Generator, last_is_shared: bool) -> Counts:
    """Two structures, of which the second needs more of the last layer; without adapters, all heads may be one batch."""
    batches = {}
    for drop in range(_LAYERS + 1):
        groups = [frozenset("ab"), frozenset("cd")]
        if last_is_shared and drop == _LAYERS:
            groups = [frozenset(_NAMES)]
        batches[drop] = tuple(
            Batch(
                group,
                float(draw.integers(1, 40)) * (_LAYERS - drop) + 1,
                int(draw.integers(1, 60)),
                (("layers", 100 * drop + 1, 10 * drop + 1), ("last", 200 if "c" in group and drop == _LAYERS else 3, 2)),
            )
            for group in groups
        )
    return Counts(batches, {})


@pytest.mark.parametrize("seed", range(12))
def test_front_is_that_of_all_combinations(seed: int) -> None:
    draw = np.random.default_rng(seed)
    model = CostModel(_counts(draw, seed % 2 == 1), np.array([5.0, 0.05, 0.5, 0.3]), (0.0, 0.0))
    losses = {name: {drop: float(draw.uniform(-0.01, 0.1)) if drop else 0.0 for drop in range(_LAYERS + 1)} for name in _NAMES}
    found = front(model, {None: losses})
    assert found.exact
    every = [
        (max(0.0, *(losses[name][drop] for name, drop in zip(_NAMES, drops, strict=True))), model.seconds(combination))
        for drops in itertools.product(range(_LAYERS + 1), repeat=len(_NAMES))
        for combination in [Combination(dict(zip(_NAMES, drops, strict=True)))]
    ]
    for limit in {loss for loss, _ in every}:
        best = min(seconds for loss, seconds in every if loss <= limit)
        ours = min(point.seconds for point in found.points if point.loss <= limit)
        assert ours == pytest.approx(best, rel=1e-12)


def test_rates_of_exact_times_are_found() -> None:
    draw = np.random.default_rng(1)
    counts, rates = _counts(draw, False), np.array([5.0, 0.05, 0.5, 0.3])
    chosen = [Combination(dict(zip(_NAMES, draw.integers(0, 4, 4).tolist(), strict=True))) for _ in range(12)]
    model = fit(counts, [(each, float(counts.terms(each) @ rates)) for each in chosen])
    np.testing.assert_allclose(model.rates, rates, rtol=1e-6)
    assert max(model.errors) < 1e-6


def test_rates_are_never_negative() -> None:
    counts = _counts(np.random.default_rng(2), False)
    chosen = [Combination(dict.fromkeys(_NAMES, drop)) for drop in range(_LAYERS + 1)]
    assert (fit(counts, [(each, 9.0 - 2 * number) for number, each in enumerate(chosen)]).rates >= 0).all()


def test_members_without_a_drop_are_left_out() -> None:
    counts = _counts(np.random.default_rng(3), False)
    model = CostModel(counts, np.array([5.0, 0.05, 0.5, 0.3]), (0.0, 0.0))
    losses = {name: {0: 0.0} for name in _NAMES}
    (point,) = front(model, {None: losses, 1: {**losses, "a": {}}}).points
    assert point.combination == Combination(dict.fromkeys(_NAMES, 0))


def test_more_batches_than_tasks_are_not_needed() -> None:
    """Of one task in 24 layers, all combinations are its 25 drops."""
    drops = range(25)
    batches = {drop: (Batch(frozenset("a"), 24.0 - drop, 3, (("layers", drop + 1, 1),)),) for drop in drops}
    model = CostModel(Counts(batches, {}), np.array([5.0, 0.05, 0.5, 0.3]), (0.0, 0.0))
    found = front(model, {None: {"a": {drop: 0.01 * drop for drop in drops}}})
    assert found.exact
    assert [point.combination.drops["a"] for point in found.points] == list(drops)
