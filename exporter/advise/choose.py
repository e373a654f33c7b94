"""The point of the front that fits the limits, and whether the texts are enough to say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from exporter.advise.metrics import Estimate
from exporter.advise.result import TaskTable
from exporter.advise.search import Losses, Point

# Without a limit of the loss, a wider interval than this on each side, or than the loss itself, says nothing about a drop.
_WIDEST = 0.05
# Of combinations whose times differ by less, which is less than a measurement shows, the one with the least loss is taken.
_EQUAL = 0.01


def losses(
    tables: Mapping[str, TaskTable], members: Sequence[int], allowed: Callable[[Estimate], bool] = lambda _: True
) -> Losses:
    """Return the losses of all drops, for each number of members.

    Args:
        tables: the measured metrics.
        members: numbers of members that fusions may keep, besides all.
        allowed: whether an estimate is considered.
    """
    return {
        keep: {
            name: {drop: table.at(drop, keep).loss for drop in table.by_drop if allowed(table.at(drop, keep))}
            for name, table in tables.items()
        }
        for keep in (None, *sorted(members, reverse=True))
    }


def is_precise(estimate: Estimate, max_loss: float | None) -> bool:
    """Return whether a loss is known well enough to decide on it.

    The half-width of its interval does not exceed the allowed loss, or the whole interval lies below it: a gain need not be
    known so precisely.
    """
    limit = _WIDEST if max_loss is None else max_loss
    return estimate.margin <= (max(limit, estimate.loss) if max_loss is None else limit) or estimate.high <= limit


def choose(
    points: Sequence[Point], max_loss: float | None, latency: float | None, times: Mapping[str, float]
) -> tuple[Point, str, bool]:
    """Choose a point of the front.

    Args:
        points: the front.
        max_loss: the loss that each task may have; None for no limit.
        latency: seconds; None for no limit.
        times: name of a combination -> measured seconds, which replace the predicted ones.

    Returns:
        The point, or the closest one; the reason; and whether it is within the limits.
    """
    seconds = {id(point): times.get(str(point.combination), point.seconds) for point in points}
    within = [point for point in points if max_loss is None or point.loss <= max_loss + 1e-12]
    allowed = "" if max_loss is None else f" in which no task loses more than {max_loss:.2%}"
    least = min(seconds[id(point)] for point in within)
    equal = [point for point in within if seconds[id(point)] <= least * (1 + _EQUAL)]
    fastest = min(equal, key=lambda point: (point.loss, seconds[id(point)]))
    if latency is None:
        return fastest, f"the fastest combination{allowed}", True
    quick = [point for point in within if seconds[id(point)] <= latency]
    if not quick:
        fastest = min(within, key=lambda point: seconds[id(point)])
        reached = f"the fastest, {1e3 * seconds[id(fastest)]:.2f} ms, loses up to {fastest.loss:.2%}"
        return fastest, f"no combination{allowed} takes at most {1e3 * latency:g} ms: {reached}", False
    best = min(quick, key=lambda point: (point.loss, seconds[id(point)]))
    return best, f"the combination within {1e3 * latency:g} ms whose largest loss is smallest", True


def shortage(tables: Mapping[str, TaskTable], max_loss: float | None) -> str:
    """Return for which tasks the texts support no drop at all; empty if there is no such task.

    These are tasks of which some drop may lose little enough, or nothing, but no such loss has an interval narrow enough to
    decide.
    """
    limit = _WIDEST if max_loss is None else max_loss
    found = []
    for name, table in tables.items():
        dropped = {drop: each for drop, each in table.by_drop.items() if drop}
        within = {drop: each for drop, each in dropped.items() if max_loss is None or each.loss <= max_loss or each.low <= 0}
        if within and not any(is_precise(each, max_loss) for each in within.values()):
            drop, closest = min(within.items(), key=lambda item: item[1].margin)
            interval = f"{closest.loss:.2%} ({closest.low:.2%} to {closest.high:.2%})"
            equal = "" if table.different == table.texts else f", {table.different:,} of them different"
            more = f" (the limit leaves out texts of the file, which has {table.available:,})" * (table.available > table.texts)
            found.append(
                f"{name} at drop {drop} loses {interval} on {table.texts:,} texts{equal}{more}, about "
                f"{_needed(table.different, closest.margin, limit):,} are needed"
            )
    return "; ".join(found)


def _needed(texts: int, margin: float, limit: float) -> int:
    # The width of an interval falls with the square root of the number of texts; 3 / texts is the least margin.
    return max(math.ceil(3 / limit), math.ceil(texts * (margin / limit) ** 2) if margin > 3.001 / texts else 0)
