"""Predictions of the time for each drop and number of tasks, and their deviation from the measured times."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.options import Shape


@dataclass(frozen=True, order=True)
class Point:
    """One graph: number of lowest layers without adapters, and number of tasks."""

    drop: int
    tasks: int

    def __str__(self) -> str:
        """Return the name in the results."""
        return f"drop {self.drop}, {self.tasks} task(s)"


@dataclass(frozen=True)
class Row:
    """One graph at one shape.

    Attributes:
        shape: batch x length.
        drop: number of lowest layers without adapters.
        tasks: number of tasks.
        layers: computed layers: once per layer up to the first adapter, at the end of layer `drop`, then once per task.
        gflop: operations of its matrix products, exact, in 1e9.
        rounds: number of rounds.
        median_ms: median time of a call, in milliseconds.
        by_operations_ms: time predicted from the operations and the time of the graph with the most tasks at the lowest drop.
        by_operations: median over the rounds of measured / predicted - 1.
        by_layers: the same, predicted from the graphs with the lowest and highest drop and the fewest and most tasks; None for
            these four.
    """

    shape: str
    drop: int
    tasks: int
    layers: int
    gflop: float
    rounds: int
    median_ms: float
    by_operations_ms: float
    by_operations: float
    by_layers: float | None


Times = Mapping[Point, Sequence[float]]


def rows(shape: Shape, times: Times, flops: Mapping[Point, int], layers: int) -> list[Row]:
    """Compute the rows of one shape.

    Args:
        shape: the shape.
        times: seconds of each round, in the same order of rounds for all points.
        flops: operations of the matrix products of each graph.
        layers: number of layers of the model.

    Returns:
        One row per point, sorted by drop and number of tasks.
    """
    drops, counts = (sorted({getattr(point, name) for point in times}) for name in ("drop", "tasks"))
    reference = Point(drops[0], counts[-1])
    corners = [Point(drop, tasks) for drop in (drops[0], drops[-1]) for tasks in (counts[0], counts[-1])]
    found = []
    for point in sorted(times):
        own, share = times[point], flops[point] / flops[reference]
        by_layers = [_between(point, corners, each) for each in zip(*(times[corner] for corner in corners), strict=True)]
        found.append(
            Row(
                shape=str(shape),
                drop=point.drop,
                tasks=point.tasks,
                layers=min(layers, point.drop + 1) + max(0, layers - point.drop - 1) * point.tasks,
                gflop=flops[point] / 1e9,
                rounds=len(own),
                median_ms=1e3 * statistics.median(own),
                by_operations_ms=1e3 * share * statistics.median(times[reference]),
                by_operations=_deviation(own, [share * seconds for seconds in times[reference]]),
                by_layers=None if point in corners else _deviation(own, by_layers),
            )
        )
    return found


def _between(point: Point, corners: Sequence[Point], seconds: Sequence[float]) -> float:
    """Interpolate trunk + tasks x branch, where both terms change linearly with the drop.

    Args:
        point: point to predict.
        corners: lowest drop with the fewest and the most tasks, then highest drop with the fewest and the most tasks.
        seconds: time of each corner.
    """
    least, most = corners[0], corners[-1]
    tasks = (point.tasks - least.tasks) / max(1, most.tasks - least.tasks)
    drop = (point.drop - least.drop) / max(1, most.drop - least.drop)
    low, high = ((1 - tasks) * few + tasks * many for few, many in (seconds[:2], seconds[2:]))
    return (1 - drop) * low + drop * high


def _deviation(measured: Sequence[float], predicted: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(measured, predicted, strict=True)) - 1


def markdown(found: Sequence[Row]) -> str:
    """Return Markdown tables, one per shape: a line per drop, a column per number of tasks.

    A cell has the measured time and, in brackets, its deviation from the interpolation; the four corners have no brackets.
    """
    tables = []
    for shape in dict.fromkeys(row.shape for row in found):
        own = [row for row in found if row.shape == shape]
        counts = sorted({row.tasks for row in own})
        lines = [f"| {shape.replace('x', ' x ')} | {' | '.join(f'{n} task' + 's' * (n > 1) for n in counts)} |"]
        lines.append("| --- |" + " ---: |" * len(counts))
        for drop in sorted({row.drop for row in own}):
            cells = [
                f"{row.median_ms:,.0f} ms" + ("" if row.by_layers is None else f" ({100 * row.by_layers:+.0f} %)")
                for row in own
                if row.drop == drop
            ]
            lines.append(f"| drop {drop} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
