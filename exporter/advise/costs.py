"""The time of a combination: trunk + tasks x branch, from counted operations and measured times.

Tasks of one structure and one drop are computed as one batch. The layers without adapters are computed once, up to the highest
drop of the call; from its own drop on, each task has its own layers. Therefore

    time = start + a x operations of the trunk
                 + sum over batches (b x operations per task x tasks)
                 + c x operators of the trunk and of the batches

The trunk of a combination is, layer by layer, the largest of its batches' trunks: a batch at drop 2 computes the trunk up to
layer 2, and of the last layer a head on the first token computes one row, a tagging head all rows. Operations and operators are
counted in one graph for each structure and drop. The four rates are fitted to measured times, none of them below zero.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.advise.combinations import Branch, Combination, Templates
from exporter.advise.measurement_files import replace_text
from exporter.inspect.read import count_cells

Trunk = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Batch:
    """Operations of the tasks of one structure at one drop.

    Attributes:
        tasks: the tasks that are computed as one batch if all of them have this drop.
        flops: operations of each task.
        nodes: operators of the batch.
        trunk: level, operations and operators of the trunk that they need.
    """

    tasks: frozenset[str]
    flops: float
    nodes: int
    trunk: Trunk


def joined(trunks: Iterable[Trunk]) -> Trunk:
    """Return the trunk of several batches: what they have in common is computed once."""
    found: dict[str, tuple[int, int]] = {}
    for level, flops, nodes in itertools.chain.from_iterable(trunks):
        known = found.get(level, (0, 0))
        found[level] = max(known[0], flops), max(known[1], nodes)
    return tuple((level, *both) for level, both in found.items())


@dataclass(frozen=True)
class Counts:
    """Operations and operators of every drop, at one shape.

    Attributes:
        batches: drop -> the batches.
        members: number of members kept -> drop -> the batches of the fusions.
    """

    batches: Mapping[int, tuple[Batch, ...]]
    members: Mapping[int, Mapping[int, tuple[Batch, ...]]]

    def batch(self, task: str, drop: int, keep: int | None) -> Batch:
        """Return the batch in which a task is computed."""
        own = () if keep is None else self.members.get(keep, {}).get(drop, ())
        return next(batch for batch in (*own, *self.batches[drop]) if task in batch.tasks)

    def terms(self, combination: Combination) -> np.ndarray:
        """Return the factors of the four rates: 1, operations of the trunk and of the branches, operators."""
        own = [(drop, self.batch(task, drop, combination.keep)) for task, drop in combination.drops.items()]
        trunk = joined(batch.trunk for _, batch in own)
        nodes = sum(nodes for _, _, nodes in trunk) + sum(batch.nodes for _, batch in set(own))
        return np.array([1.0, sum(flops for _, flops, _ in trunk), sum(batch.flops for _, batch in own), nodes])


def count(templates: Templates, drops: Sequence[int], members: Sequence[int], shape: tuple[int, int], folder: Path) -> Counts:
    """Count the operations of one graph for each structure and drop.

    Args:
        templates: compiles graphs.
        drops: all drops.
        members: numbers of members kept, besides all.
        shape: batch and length.
        folder: keeps the numbers.
    """
    counted = _Counted(folder / f"counts-{shape[0]}x{shape[1]}.json")
    kept = {keep: {drop: counted.batches(templates, drop, keep, shape) for drop in drops} for keep in members}
    return Counts({drop: counted.batches(templates, drop, None, shape) for drop in drops}, kept)


class _Counted:
    """Counted batches in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def batches(self, templates: Templates, drop: int, keep: int | None, shape: tuple[int, int]) -> tuple[Batch, ...]:
        name = str(drop) if keep is None else f"{drop}/{keep}"
        if name not in self._known:
            self._known[name] = [[sorted(each.tasks), *astuple(each)[1:]] for each in _batches(templates, drop, keep, shape)]
            replace_text(self._path, json.dumps(self._known))
        return tuple(
            Batch(frozenset(tasks), flops, nodes, tuple((level, *both) for level, *both in trunk))
            for tasks, flops, nodes, trunk in self._known[name]
        )


def _batches(templates: Templates, drop: int, keep: int | None, shape: tuple[int, int]) -> tuple[Batch, ...]:
    found = []
    for tasks in templates.batches(drop, keep):
        graph = templates.compile({name: Branch(name, drop, keep) for name in tasks})
        cells = count_cells(graph.graph, shape)
        branch = [cell for cell in cells if cell.owner != "trunk"]
        trunk = tuple((cell.level, cell.flops, cell.nodes) for cell in cells if cell.owner == "trunk")
        flops = sum(cell.flops for cell in branch) / len(tasks)
        found.append(Batch(frozenset(tasks), flops, sum(cell.nodes for cell in branch), trunk))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class CostModel:
    """The fitted rates.

    Attributes:
        counts: the counted operations.
        rates: seconds per call, per operation of the trunk and of the branches, per operator.
        errors: median and largest relative deviation of a measured time from the prediction by all others.
    """

    counts: Counts
    rates: np.ndarray
    errors: tuple[float, float]

    def seconds(self, combination: Combination) -> float:
        """Predict the time of a call."""
        return float(self.counts.terms(combination) @ self.rates)


def fit(counts: Counts, measured: Sequence[tuple[Combination, float]]) -> CostModel:
    """Fit the rates to measured times, each weighted by its inverse.

    Args:
        counts: the counted operations.
        measured: combinations with their seconds.
    """
    terms = np.array([counts.terms(combination) for combination, _ in measured])
    seconds = np.array([each for _, each in measured])
    deviations: list[float] = []
    for left_out in range(len(measured)):
        others = np.arange(len(measured)) != left_out
        # Rates of terms that the others do not vary would be arbitrary.
        if others.sum() > terms.shape[1]:
            predicted = terms[left_out] @ _non_negative(terms[others], seconds[others])
            deviations.append(abs(predicted / seconds[left_out] - 1))
    return CostModel(
        counts, _non_negative(terms, seconds), (statistics.median(deviations or [0.0]), max(deviations, default=0.0))
    )


def _non_negative(terms: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Least squares of the relative deviations with rates of at least 0: the best of all choices of rates that are 0."""
    scale = np.maximum(np.abs(terms).max(0), 1e-30)
    rows, target = terms / scale / seconds[:, None], np.ones(len(seconds))
    best, least = np.zeros(terms.shape[1]), np.inf
    for size in range(1, terms.shape[1] + 1):
        for chosen in itertools.combinations(range(terms.shape[1]), size):
            own = np.linalg.lstsq(rows[:, chosen], target, rcond=None)[0]
            wrong = float(((rows[:, chosen] @ own - target) ** 2).sum())
            if (own >= 0).all() and wrong < least - 1e-12:
                best, least = np.zeros(terms.shape[1]), wrong
                best[list(chosen)] = own
    return np.asarray(best / scale)
