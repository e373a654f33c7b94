"""Advice as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.advise.result import Advice
from exporter.advise.search import Point

_BAR = 24
_POINTS = 12


def lines(advice: Advice) -> Iterator[str]:
    """Yield the tables, the front, the choice and the command."""
    drops = list(next(iter(advice.tasks.values())).by_drop)
    shape = f"{advice.shape[0]}x{advice.shape[1]}"
    yield f"{advice.source}: {len(advice.tasks)} tasks, {advice.layers} layers, {advice.precision}"
    if advice.left_out:
        yield f"left out, without --evaluation: {', '.join(advice.left_out)}"
    yield ""
    width = max(4, *map(len, advice.tasks))
    yield f"{'task':{width}}  {'metric':8} {'texts':>6}  " + " ".join(f"{f'n={drop}':>6}" for drop in drops)
    for name, table in advice.tasks.items():
        values = " ".join(f"{table.by_drop[drop].metric:6.3f}" for drop in drops)
        yield f"{name:{width}}  {table.metric:8} {table.texts:6,}  {values}"
        for keep, own in table.by_members.items():
            values = " ".join(f"{own[drop].metric:6.3f}" if drop in own else f"{'-':>6}" for drop in drops)
            yield f"{f'  {keep} members':{width}}  {'':15}  {values}"
    yield ""
    yield f"Pareto front at {shape}: the largest loss of a task, and the time of a call with all tasks"
    slowest = max(point.seconds for point in advice.front)
    for point in _some(advice):
        mark = "*" if point.combination == advice.nearest.combination else " "
        measured = "measured" if str(point.combination) in advice.measured else ""
        bar = "█" * max(1, round(_BAR * point.seconds / slowest))
        yield f"{mark} {point.loss:7.2%}  {_ms(point.seconds):>10} {measured:8}  {bar:{_BAR}}  {_drops(point)}"
    if not advice.exact:
        yield "(not all combinations were tried: there are too many drops and structures)"
    typical, largest = advice.errors
    yield f"other times are predicted; measured ones deviate from predictions by {typical:.0%} (median), at most {largest:.0%}"
    yield ""
    yield from _choice(advice)


def _choice(advice: Advice) -> Iterator[str]:
    point = advice.nearest
    yield f"chosen: {advice.reason}" if advice.chosen is not None else f"nothing is chosen: {advice.reason}"
    yield f"{'' if advice.chosen else 'nearest: '}{_drops(point)}"
    for name, table in advice.tasks.items():
        drop = point.combination.drops[name]
        found = table.at(drop, point.combination.keep)
        members = f", {point.combination.keep} members" if drop in table.by_members.get(point.combination.keep or 0, {}) else ""
        yield (
            f"  {name}: drop {drop}{members}, {table.metric} {table.by_drop[0].metric:.3f} -> {found.metric:.3f}, "
            f"loss {found.loss:.2%} ({found.low:.2%} to {found.high:.2%})"
        )
    known = "measured" if str(point.combination) in advice.measured else "predicted"
    yield (
        f"  time: {known} {_ms(point.seconds)}, {point.seconds / advice.base_seconds:.2f} of drop 0 "
        f"({_ms(advice.base_seconds)})"
    )
    if advice.chosen is not None and advice.estimated.combination != point.combination:
        yield (
            f"  more texts may allow {_drops(advice.estimated)}: {_ms(advice.estimated.seconds)}, "
            f"largest loss {advice.estimated.loss:.2%}, but these texts do not measure it well enough"
        )
    if advice.command:
        yield ""
        yield advice.command


def _some(advice: Advice) -> list[Point]:
    """The points of the front, or of many some with the chosen one."""
    points = advice.front
    if len(points) <= _POINTS:
        return list(points)
    numbers = {round(number * (len(points) - 1) / (_POINTS - 1)) for number in range(_POINTS)}
    return [
        point for number, point in enumerate(points) if number in numbers or point.combination == advice.nearest.combination
    ]


def _drops(point: Point) -> str:
    by_drop: dict[int, list[str]] = {}
    for name, drop in point.combination.drops.items():
        by_drop.setdefault(drop, []).append(name)
    if len(by_drop) == 1:
        text = f"all {next(iter(by_drop))}"
    else:
        text = "; ".join(f"{drop}: {', '.join(names)}" for drop, names in sorted(by_drop.items()))
    keep = point.combination.keep
    return text if keep is None else f"{text}; {keep} fusion members"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"
