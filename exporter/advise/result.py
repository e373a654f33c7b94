"""The result of `advise`, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporter.advise.metrics import Estimate
from exporter.advise.search import Point


@dataclass(frozen=True)
class TaskTable:
    """The measured metric of a task.

    Attributes:
        metric: "accuracy", "micro F1" or "pearson".
        texts: number of texts.
        different: number of different ones, which the intervals depend on.
        available: number of texts in the file, before the limit.
        by_drop: drop -> its estimate with all fusion members.
        by_members: number of members kept -> drop -> estimate; empty for a task without a fusion.
    """

    metric: str
    texts: int
    different: int
    available: int
    by_drop: Mapping[int, Estimate]
    by_members: Mapping[int, Mapping[int, Estimate]]

    def at(self, drop: int, keep: int | None) -> Estimate:
        """Return the estimate of a drop and number of members."""
        return self.by_members.get(keep or 0, {}).get(drop, self.by_drop[drop])


@dataclass(frozen=True)
class Advice:
    """Measured tables, the Pareto front and the choice.

    Attributes:
        source: what was measured.
        layers: number of layers.
        shape: batch and length of a call.
        precision: precision of the graphs.
        tasks: task -> its table, in the order of the outputs.
        left_out: tasks of the model without labelled texts.
        front: the Pareto front of time and largest loss, whether or not the texts are enough for it; times are measured, or
            else predicted.
        uniform: all tasks at equal drops, measured.
        exact: whether the front is the optimum over all combinations.
        base_seconds: measured time at drop 0.
        errors: median and largest relative deviation of a measured time from its prediction by the others.
        measured: name of a combination -> measured seconds.
        nearest: the point that fits the limits, or else the closest one.
        estimated: the point that the losses suggest where their intervals are ignored.
        chosen: `nearest`, or None without advice.
        reason: why it is chosen, or why none is.
        command: the command line that exports `chosen`; empty without one.
    """

    source: str
    layers: int
    shape: tuple[int, int]
    precision: str
    tasks: Mapping[str, TaskTable]
    left_out: tuple[str, ...]
    front: tuple[Point, ...]
    uniform: tuple[Point, ...]
    exact: bool
    base_seconds: float
    errors: tuple[float, float]
    measured: Mapping[str, float]
    nearest: Point
    estimated: Point
    chosen: Point | None
    reason: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as JSON types."""
        return asdict(self)
