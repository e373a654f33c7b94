"""The fastest combination within a limit on every task's loss, and the Pareto front.

The time of a combination is its trunk, plus what each batch costs for itself, plus what each task adds to its batch. For a
chosen set of batches, each task therefore takes the cheapest of them that it may have, independently of the others. All sets
are tried, so that the result is the exact optimum of the measured tables. Tasks that never meet in a batch are searched by
themselves, for each highest drop; then the highest drops of all such parts are combined, because they determine the trunk.
Parts that need the same trunk have one highest drop. Where there are too many sets, only those with few batches are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.advise.combinations import Combination
from exporter.advise.costs import Batch, CostModel, Trunk, joined

# Losses by number of members kept (None: all), task and drop; a drop that is not considered is absent.
Losses = Mapping[int | None, Mapping[str, Mapping[int, float]]]
_SETS, _TUPLES = 1 << 14, 1 << 16


@dataclass(frozen=True)
class Point:
    """A combination of the front.

    Attributes:
        combination: the drops and members.
        seconds: predicted or measured time of a call.
        loss: the largest loss of a task, at least 0.
    """

    combination: Combination
    seconds: float
    loss: float


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return the points that no other one beats, by ascending loss and descending time.

    Of equal points, the first one stays.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.loss, each.seconds)):
        if not found or point.seconds < found[-1].seconds:
            found.append(point)
    return tuple(found)


@dataclass(frozen=True)
class Front:
    """The combinations that no other one beats in both time and loss.

    Attributes:
        points: by ascending loss and descending time.
        exact: whether all sets of batches were tried.
    """

    points: tuple[Point, ...]
    exact: bool


def front(model: CostModel, losses: Losses) -> Front:
    """Find the Pareto front of time and largest loss.

    Args:
        model: predicts times.
        losses: the losses of each task and drop.
    """
    found: list[Point] = []
    exact = True
    for keep, by_task in losses.items():
        if not all(by_task.values()):  # a fusion of which no loss with so few members is considered
            continue
        searches = [_Search(model, part, by_task, keep) for part in _parts(model, by_task, keep)]
        ceilings = _Ceilings(model, searches)
        exact = exact and ceilings.is_every and all(search.exact for search in searches)
        for limit in sorted({max(0.0, loss) for by_drop in by_task.values() for loss in by_drop.values()}):
            best = ceilings.best(limit)
            if best is not None:
                drops = {name: best[name] for name in by_task}
                combination = Combination(drops, keep)
                loss = max(max(0.0, by_task[name][drop]) for name, drop in drops.items())
                found.append(Point(combination, model.seconds(combination), loss))
    return Front(undominated(found), exact)


def _parts(model: CostModel, by_task: Mapping[str, Mapping[int, float]], keep: int | None) -> list[list[str]]:
    """Split the tasks into sets that have no batch in common."""
    parts: list[set[str]] = []
    for name, by_drop in by_task.items():
        mates = {name}.union(*(model.counts.batch(name, drop, keep).tasks & set(by_task) for drop in by_drop))
        touching = [part for part in parts if part & mates]
        parts = [part for part in parts if part not in touching] + [mates.union(*touching)]
    return [[name for name in by_task if name in part] for part in parts]


class _Search:
    """The sets of batches of one part of the tasks."""

    def __init__(
        self, model: CostModel, tasks: Sequence[str], losses: Mapping[str, Mapping[int, float]], keep: int | None
    ) -> None:
        _, _, self._per_flop, self._per_node = model.rates
        self._tasks, self._losses = tasks, losses
        #: Drop -> the trunk of all its batches at drops up to that one.
        self.trunks: dict[int, Trunk] = {}
        own = {(name, drop): model.counts.batch(name, drop, keep) for name in tasks for drop in losses[name]}
        places: dict[tuple[int, Batch], int] = {}
        for (_, drop), batch in sorted(own.items(), key=lambda item: item[0][1]):
            places.setdefault((drop, batch), len(places))
        self._drops = np.array([drop for drop, _ in places])
        self._places = {key: places[key[1], batch] for key, batch in own.items()}
        for drop in sorted({drop for _, drop in own}):
            self.trunks[drop] = joined(batch.trunk for (_, each), batch in own.items() if each <= drop)
        self._added = {key: self._per_flop * batch.flops for key, batch in own.items()}
        fixed = self._per_node * np.array([batch.nodes for _, batch in places])
        # A task is in one batch: more batches than tasks are never needed.
        wanted = min(len(places), len(tasks))
        size = _largest_size(len(places), wanted)
        self.exact = size == wanted
        sets = [each for number in range(1, size + 1) for each in itertools.combinations(range(len(places)), number)]
        self._sets = np.zeros((len(sets), len(places)), bool)
        for row, each in zip(self._sets, sets, strict=True):
            row[list(each)] = True
        self._fixed = self._sets @ fixed
        self._highest = np.where(self._sets, self._drops, -1).max(1)

    def best(self, limit: float) -> dict[int, tuple[float, dict[str, int]]]:
        """Return highest allowed drop -> the least seconds of the branches, with the drops; impossible ones are absent."""
        total, chosen = self._fixed.copy(), {}
        for name in self._tasks:
            allowed = [drop for drop, loss in self._losses[name].items() if loss <= limit]
            if not allowed:
                return {}
            columns = self._sets[:, [self._places[name, drop] for drop in allowed]]
            costs = np.where(columns, [self._added[name, drop] for drop in allowed], np.inf)
            total += costs.min(1)
            chosen[name] = costs.argmin(1), allowed
        found = {}
        for highest in sorted(set(self._drops.tolist())):
            rows = np.where(self._highest <= highest, total, np.inf)
            row = int(rows.argmin())
            if math.isfinite(rows[row]):
                found[highest] = float(rows[row]), {name: drops[places[row]] for name, (places, drops) in chosen.items()}
        return found


def _largest_size(places: int, wanted: int) -> int:
    total, size = 0, 0
    while size < wanted and total + math.comb(places, size + 1) <= _SETS:
        size += 1
        total += math.comb(places, size)
    return max(size, 1)


class _Ceilings:
    """The highest drops of all searches that are tried together, because they determine the trunk.

    Attributes:
        is_every: whether these are all: searches that need the same trunk have the same highest drop.
    """

    def __init__(self, model: CostModel, searches: Sequence[_Search]) -> None:
        kinds = list(dict.fromkeys(tuple(search.trunks.items()) for search in searches))
        known = [dict(kind) for kind in kinds]
        self.is_every = math.prod(map(len, known)) <= _TUPLES
        if self.is_every:
            chosen = list(itertools.product(*known))
        else:
            # One highest drop for all, of which each kind takes the nearest one that it has.
            drops = sorted({drop for kind in known for drop in kind})
            chosen = [
                tuple(max((each for each in kind if each <= drop), default=min(kind)) for kind in known) for drop in drops
            ]
        self._searches = searches
        #: [tuples, searches], and the seconds of the trunk, [tuples].
        self._tops = np.array(chosen)[:, [kinds.index(tuple(search.trunks.items())) for search in searches]]
        self._trunk = _trunk_seconds(model, known, chosen)

    def best(self, limit: float) -> dict[str, int] | None:
        """Return the drops of the fastest combination in which no task loses more than `limit`; None without one."""
        found = [search.best(limit) for search in self._searches]
        total = self._trunk.copy()
        for tops, own in zip(self._tops.T, found, strict=True):
            # For a higher ceiling, the best of a search is at least as good.
            seconds = [
                min((added for drop, (added, _) in own.items() if drop <= top), default=math.inf)
                for top in range(tops.max() + 1)
            ]
            total += np.array(seconds)[tops]
        row = int(total.argmin())
        if not math.isfinite(total[row]):
            return None
        best: dict[str, int] = {}
        for top, own in zip(self._tops[row].tolist(), found, strict=True):
            best |= own[max(drop for drop in own if drop <= top)][1]
        return best


def _trunk_seconds(model: CostModel, known: Sequence[Mapping[int, Trunk]], chosen: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the seconds of what the chosen trunks have in common, as `joined`: [chosen]."""
    levels = {
        level: number
        for number, level in enumerate({level for kind in known for trunk in kind.values() for level, *_ in trunk})
    }
    needed = np.zeros((len(chosen), len(levels), 2))
    for kind, tops in zip(known, np.array(chosen).T, strict=True):
        table = np.zeros((max(kind) + 1, len(levels), 2))
        for drop, trunk in kind.items():
            for level, *both in trunk:
                table[drop, levels[level]] = both
        needed = np.maximum(needed, table[tops])
    sums = needed.sum(1)
    return np.asarray(model.rates[0] + model.rates[1] * sums[:, 0] + model.rates[3] * sums[:, 1])
