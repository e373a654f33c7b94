"""The published figures of AdapterDrop (arXiv 2010.11918), and the same figures from measured rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.intervals import Interval, interval

DROP = 5
# Tasks -> share of the time that each shared layer saves, when all tasks are computed for a text.
PER_LAYER = {2: 0.043, 4: 0.066, 8: 0.078, 16: 0.084}
# Tasks -> share of the time that five shared layers save: "21 to 42 %" for 2 to 16 tasks, 39 % for 8.
FIVE_LAYERS = {2: 0.21, 8: 0.39, 16: 0.42}
# Members of a fusion -> speed relative to a fine-tuned model.
FUSION = {2: 0.64, 8: 0.38, 16: 0.24}
FEWER_MEMBERS = 0.68  # 2 instead of 8 members: how much faster
FEWER_LAYERS = 0.26  # 8 members in 7 instead of 12 layers: how much faster

EAGER, OURS = "eager", "ours"
FINE_TUNED = "fine-tuned"
FUSIONS = "fusion"
_FEWER_MEMBERS, _FEWER_LAYERS = "2 members instead of 8", f"8 members, drop {DROP}"
TABLES = {"layer": "time saved by each shared layer", "five": "time saved by five shared layers", "fusion": "AdapterFusion"}
# Figures that are a gain of speed -> their row: the other rows say how much time is saved.
_GAINS = {
    _FEWER_MEMBERS: "AdapterFusion, higher throughput with 2 members than with 8",
    _FEWER_LAYERS: f"AdapterFusion, 8 members, higher throughput with drop {DROP} than without a drop",
}
# Why ours differs from the paper, a sentence a table.
REASONS = {
    "layer": (
        "Without a drop, our graph already computes the first layer once up to its first adapter, and the last layer only for "
        "the token that the head reads, so that each further shared layer is another share of fewer operations."
    ),
    "five": (
        "Five shared layers are four more than our graph shares without a drop, and the operations of the two graphs give the "
        "share that can be saved, which is the column 'by operations'."
    ),
    "fusion": (
        "Our graph computes three square products in each layer for any number of members instead of two for each member and "
        "one for the query, so that a fusion costs little more than a fine-tuned model, and fewer members or layers gain "
        "little."
    ),
}


def drop_name(drop: int) -> str:
    """Return the name of the calls with that number of shared layers, after the library's name."""
    return f"n = {drop}"


def tasks_name(tasks: int) -> str:
    """Return the name of the group with that number of tasks."""
    return f"{tasks} tasks"


@dataclass(frozen=True)
class Figure:
    """One figure of the paper, published and measured.

    Attributes:
        table: key of `TABLES`.
        shape: batch x length.
        what: what it is about, such as "8 tasks".
        unit: "saved" for shares of the time, "speed" for ratios of speeds, "faster" for ratios of speeds minus 1.
        published: value of the paper; None if the paper has none.
        eager: the same of today's library in PyTorch: median over the rounds, and its interval.
        ours: the same of our graphs.
        by_operations: the same if time were proportional to the operations of our graphs' matrix products.
        throughput: speed of our graph relative to the library's, in the second of the two cases that the figure compares.
        rounds: number of rounds.
    """

    table: str
    shape: str
    what: str
    unit: str
    published: float | None
    eager: Interval
    ours: Interval
    by_operations: float
    throughput: Interval
    rounds: int


Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class _Comparison:
    """Two cases whose times give a figure."""

    table: str
    what: str
    unit: str
    published: float | None
    group: str
    before: str
    after: str

    def value(self, before: float, after: float) -> float:
        """Return the figure from two times, or from two numbers of operations."""
        kinds: dict[str, Callable[[], float]] = {
            "saved": lambda: (1 - after / before) / (DROP if self.table == "layer" else 1),
            "speed": lambda: before / after,
            "faster": lambda: before / after - 1,
        }
        return kinds[self.unit]()


def _comparisons(counts: Sequence[int], members: Sequence[int]) -> list[_Comparison]:
    none, some = drop_name(0), drop_name(DROP)
    found = []
    for table, published in (("layer", PER_LAYER), ("five", FIVE_LAYERS)):
        found += [
            _Comparison(table, tasks_name(count), "saved", published.get(count), tasks_name(count), none, some)
            for count in counts
        ]
    found += [
        _Comparison(FUSIONS, f"{count} members", "speed", FUSION.get(count), FUSIONS, FINE_TUNED, f"{count} members")
        for count in members
    ]
    fewer = (_FEWER_MEMBERS, "faster", FEWER_MEMBERS, FUSIONS, "8 members", "2 members")
    layers = (_FEWER_LAYERS, "faster", FEWER_LAYERS, FUSIONS, "8 members", f"8 members, drop {DROP}")
    return [*found, _Comparison(FUSIONS, *fewer), _Comparison(FUSIONS, *layers)]


def figures(
    shape: str,
    groups: Mapping[str, Times],
    flops: Mapping[str, Mapping[str, int]],
    counts: Sequence[int],
    members: Sequence[int],
) -> list[Figure]:
    """Compute the figures of one shape; those of groups without a round are left out.

    Args:
        shape: batch x length.
        groups: group -> call, "eager …" or "ours …" -> seconds of each round.
        flops: group -> case -> operations of our graph.
        counts: numbers of tasks.
        members: numbers of members of the fusions.
    """
    found = []
    for each in _comparisons(counts, members):
        times = groups.get(each.group)
        if not times:
            continue
        eager, ours = (
            interval(list(map(each.value, times[f"{who} {each.before}"], times[f"{who} {each.after}"])))
            for who in (EAGER, OURS)
        )
        after = [times[f"{who} {each.after}"] for who in (EAGER, OURS)]
        operations = flops[each.group]
        found.append(
            Figure(
                table=each.table,
                shape=shape,
                what=each.what,
                unit=each.unit,
                published=each.published,
                eager=eager,
                ours=ours,
                by_operations=each.value(operations[each.before], operations[each.after]),
                throughput=interval([one / other for one, other in zip(*after, strict=True)]),
                rounds=len(after[0]),
            )
        )
    return found


def markdown(rows: Sequence[Figure]) -> str:
    """Return a Markdown table per shape: published, eager and our figures side by side, with their intervals."""
    tables = []
    for shape in dict.fromkeys(row.shape for row in rows):
        lines = [
            f"| {shape.replace('x', ' x ')} | paper | eager `adapters` | ours | by operations | one graph / eager |",
            "| --- |" + " ---: |" * 5,
        ]
        for table, title in TABLES.items():
            own = [row for row in rows if (row.shape, row.table) == (shape, table)]
            lines += [f"| {_label(title, row)} | {' | '.join(_cells(row))} |" for row in own]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _label(title: str, row: Figure) -> str:
    if row.unit == "faster":
        return _GAINS[row.what]
    return f"{title}, {row.what}" + ", speed relative to a fine-tuned model" * (row.unit == "speed")


def _cells(row: Figure) -> list[str]:
    def span(found: Interval) -> str:
        return f"{shown(found.median, row)} ({shown(found.low, row, '')} to {shown(found.high, row, '')})"

    published = "-" if row.published is None else shown(row.published, row)
    return [published, span(row.eager), span(row.ours), shown(row.by_operations, row), f"{row.throughput.median:.2f}x"]


def shown(value: float, row: Figure, unit: str = " %") -> str:
    """Return a figure as text: ratios of speeds with two decimals, shares in percent, those of a layer with a decimal."""
    if row.unit == "speed":
        return f"{value:.2f}"
    return f"{100 * value:.1f}{unit}" if row.table == "layer" else f"{100 * value:.0f}{unit}"
