"""Times of measured combinations, and the cost model that is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.advise.combinations import Combination
from exporter.advise.costs import CostModel, Counts, fit
from exporter.advise.measurements import Measurements
from exporter.advise.search import Losses, Point
from exporter.stages import Stages

_UNIFORM = 7


class Timing:
    """Measures combinations, and predicts all others.

    Attributes:
        reference: all tasks at drop 0.
        times: name of a combination -> measured seconds.
    """

    def __init__(self, measurements: Measurements, counts: Counts, tasks: Sequence[str], shape: tuple[int, int]) -> None:
        """Measure nothing yet.

        Args:
            measurements: where times are kept.
            counts: the counted operations.
            tasks: the names of all tasks.
            shape: batch and length of a call.
        """
        self._measurements, self._counts, self._shape = measurements, counts, shape
        self._measured: dict[str, Combination] = {}
        self.reference = Combination(dict.fromkeys(tasks, 0))
        self.times: dict[str, float] = {}

    def add(self, combinations: Sequence[Combination], stages: Stages) -> None:
        """Measure further combinations."""
        for number, each in enumerate(combinations, 1):
            self._measured[str(each)] = each
            with stages("time", f"combination {number} of {len(combinations)}"):
                self.times = self._measurements.seconds(list(self._measured.values()), self.reference, self._shape)

    def points(self, considered: Losses) -> list[Point]:
        """Return the measured combinations of all tasks, those without a drop that is not considered."""
        found = []
        for name, each in self._measured.items():
            own = considered.get(each.keep, {})
            if own.keys() == each.drops.keys() and all(drop in own[task] for task, drop in each.drops.items()):
                loss = max(0.0, *(own[task][drop] for task, drop in each.drops.items()))
                found.append(Point(each, self.times[name], loss))
        return found

    def fit(self) -> CostModel:
        """Fit the rates to all measured times."""
        return fit(self._counts, [(each, self.times[name]) for name, each in self._measured.items()])


def corners(counts: Counts, tasks: Sequence[str], drops: Sequence[int], members: Sequence[int]) -> list[Combination]:
    """Return combinations whose times determine the rates of the cost model.

    All tasks at equal drops; one task of each structure at the lowest, middle and highest drop; tasks at different drops; and
    fusions with few members.

    Args:
        counts: the counted operations.
        tasks: the names of all tasks.
        drops: all drops, from 0 on.
        members: numbers of members kept besides all.
    """
    last = len(drops) - 1
    middle = last // 2
    spread = sorted({round(number * last / (_UNIFORM - 1)) for number in range(_UNIFORM)})
    found = [Combination(dict.fromkeys(tasks, drop)) for drop in spread]
    firsts = set({counts.batch(name, 0, None): name for name in reversed(tasks)}.values())
    ones = [name for name in tasks if name in firsts]
    found += [Combination(dict.fromkeys(ones, drop)) for drop in (0, middle, last)]
    found += [Combination({name: (0, middle, last)[number % 3] for number, name in enumerate(tasks)})]
    found += [Combination({name: (last, 0)[number == 0] for number, name in enumerate(tasks)})]
    found += [Combination(dict.fromkeys(tasks, drop), keep) for keep in members[:1] for drop in (0, middle)]
    return list({str(each): each for each in found}.values())
