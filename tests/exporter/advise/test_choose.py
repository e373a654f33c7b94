"""Which losses are known well enough, and which combination is chosen, with times that differ from their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from exporter.advise.advise import _search
from exporter.advise.choose import is_precise, shortage
from exporter.advise.combinations import Combination
from exporter.advise.costs import Batch, Counts
from exporter.advise.metrics import Estimate
from exporter.advise.request import Request
from exporter.advise.result import TaskTable
from exporter.advise.search import Losses
from exporter.advise.timing import Timing, corners
from exporter.stages import Stages

_NAMES = ("a", "b")
_DROPS = range(7)
_COUNTS = Counts(
    {drop: (Batch(frozenset(_NAMES), 10.0 * (6 - drop), 5, (("layers", 10 * drop + 1, drop),)),) for drop in _DROPS}, {}
)
_CORNERS = set(map(str, corners(_COUNTS, _NAMES, _DROPS, [])))
_LOSSES: Losses = {None: {name: {drop: each * drop for drop in _DROPS} for name, each in (("a", 0.010), ("b", 0.013))}}


def _estimate(loss: float, low: float, high: float) -> Estimate:
    return Estimate(1 - loss, loss, low, high)


def _table(*estimates: Estimate, different: int = 20, available: int = 20) -> TaskTable:
    return TaskTable("accuracy", 20, different, available, dict(enumerate((_estimate(0, 0, 0), *estimates))), {})


def test_a_gain_need_not_be_known_precisely() -> None:
    assert is_precise(_estimate(-0.06, -0.09, -0.03), 0.01)
    assert is_precise(_estimate(-0.20, -0.30, -0.10), None)
    assert not is_precise(_estimate(-0.01, -0.04, 0.02), 0.01)


def test_losses_that_may_be_nothing_are_too_few_texts() -> None:
    """No loss seems small enough, but some may be: 20 texts say neither that a drop is possible nor that it is not."""
    found = shortage({"a": _table(_estimate(0.1, -0.1, 0.3), _estimate(0.5, 0.3, 0.7))}, 0.01)
    assert found.startswith("a at drop 1 loses 10.00% (-10.00% to 30.00%) on 20 texts, about 8,000 are needed")
    assert not shortage({"a": _table(_estimate(0.5, 0.3, 0.7))}, 0.01)


def test_texts_that_are_left_out_or_equal_are_named() -> None:
    table = _table(_estimate(0.0, -0.15, 0.15), different=10, available=700)
    assert "on 20 texts, 10 of them different (the limit leaves out texts of the file, which has 700)" in shortage(
        {"a": table}, 0.01
    )


class _Times:
    """Takes the place of `Measurements`: times by the number of adapted layers, some of them longer or shorter."""

    def __init__(self, factor: Mapping[str, float], otherwise: float = 1.0) -> None:
        self._factor, self._otherwise = factor, otherwise

    def seconds(self, wanted: Sequence[Combination], _reference: Any, _shape: Any) -> dict[str, float]:
        return {
            str(each): (20 - sum(each.drops.values()))
            * self._factor.get(str(each), 1.0 if str(each) in _CORNERS else self._otherwise)
            for each in wanted
        }


def _timing(times: Any) -> Timing:
    timing = Timing(times, _COUNTS, list(_NAMES), (1, 8))
    timing.add(corners(_COUNTS, _NAMES, _DROPS, []), Stages())
    return timing


@pytest.mark.parametrize("latency", [15.7, 17.6, 19.5])
def test_the_chosen_combination_is_within_the_latency(latency: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All combinations that are measured later take longer than predicted, and the search ends after one of them."""
    monkeypatch.setattr("exporter.advise.advise._REFINEMENTS", 1)
    timing = _timing(_Times({}, 1.05))
    point, _, fits = _search(timing, _LOSSES, Request({}, latency=latency, max_loss=None), Stages())
    assert fits
    assert timing.times[str(point.combination)] <= latency


def test_a_measured_combination_that_is_faster_is_chosen() -> None:
    """It is not on the front of the predicted times."""
    fast = Combination({"a": 0, "b": 6})
    timing = _timing(_Times({str(fast): 0.1}))
    losses: Losses = {None: {"a": {0: 0.0, 6: 1.0}, "b": dict.fromkeys((0, 6), 0.0)}}
    point, _, fits = _search(timing, losses, Request({}, max_loss=0.01), Stages())
    assert fits
    assert point.combination == fast
