"""Comparison of the trunk and the branches, run one after the other, with the whole graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan
from exporter.split.sessions import SplitSessions, read_inputs, relative_difference
from exporter.verify.random_inputs import MASKS, make_inputs
from exporter.verify.routes import draw_routes
from exporter.verify.shapes import shapes_of
from runtime.bundle import ROUTE_INPUTS

__all__ = ["Half", "compare_split"]

_ADVICE = "export without --split, and report it with the model's configuration"


@dataclass(frozen=True)
class Half:
    """The effect of states in fp16 on the logits.

    Attributes:
        difference: largest difference of a logit relative to max(1, max |logit|); -1 if a state exceeds the range of fp16.
        agreement: fraction of logit vectors with the same argmax.
    """

    difference: float
    agreement: float


def compare_split(graphs: SplitSessions, plan: Plan, states: Sequence[str]) -> Half:
    """Compare trunk and branches with the whole graph at the shapes of the verification, with all kinds of masks.

    The whole graph has been compared with PyTorch before. The states of each batch are computed text by text where that is
    possible, as a cache of states would have them.

    Args:
        graphs: the sessions.
        plan: the plan of the graph.
        states: names of the states that the branches read.

    Returns:
        The effect of states in fp16.

    Raises:
        VerificationError: the logits differ by more than the tolerance of the precision.
    """
    whole, trunk, branches = graphs.whole, graphs.trunk, graphs.branches
    halves = []
    for shape in shapes_of(plan):
        inputs = make_inputs(plan, *shape, masks=MASKS[0])
        expected = whole.run(None, inputs)
        for given in _states(trunk, states, inputs):
            found = branches.run(None, read_inputs(branches, {**inputs, **given}))
            _compare(expected, found, plan, shape, graphs.branches_file)
        with np.errstate(over="ignore"):
            rounded = {name: array.astype(np.float16).astype(array.dtype) for name, array in given.items()}
        halves += _effect(expected, branches.run(None, read_inputs(branches, {**inputs, **rounded})))
        if graphs.rows:
            groups = {task.name: number for number, group in enumerate(plan.groups) for task in group}
            numbers = [task.name for task in plan.tasks]
            for row_ids, names in draw_routes(groups, shape[0], (plan.drop, *shape)):
                task_ids = np.array([numbers.index(name) for name in names])
                for name, pair in graphs.rows.items():
                    ids = dict(zip(ROUTE_INPUTS, (row_ids, task_ids % pair.given.tasks), strict=True))
                    values = {**inputs, **given, **ids, **pair.given.weights}
                    one, other = (each.run(None, read_inputs(each, values)) for each in (pair.whole, pair.branches))
                    _compare(one, other, plan, shape, name)
    if any(half.difference < 0 for half in halves):
        return Half(-1.0, 0.0)
    return Half(max(half.difference for half in halves), float(np.mean([half.agreement for half in halves])))


def _states(trunk: Any, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the states of the batch, computed together and text by text."""
    together = dict(zip(names, trunk.run(list(names), dict(inputs)), strict=True))
    count = len(next(iter(inputs.values())))
    rows = [trunk.run(list(names), {name: array[row : row + 1] for name, array in inputs.items()}) for row in range(count)]
    return [together, {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*rows, strict=True), strict=True)}]


def _compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], plan: Plan, shape: tuple[int, int], graph: str
) -> None:
    for one, other in zip(expected, found, strict=True):
        where = f"{graph} at {shape[0]}x{shape[1] or 1}"
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            raise VerificationError(
                f"the split graph {where} differs from the whole graph; nothing was written: expected {list(one.shape)} with "
                f"{int(np.isfinite(one).sum())} finite values, found {list(other.shape)} with {int(np.isfinite(other).sum())}: "
                f"{_ADVICE}"
            )
        difference = relative_difference(one, other)
        if not difference <= plan.atol:
            raise VerificationError(
                f"the split graph {where} differs from the whole graph by {difference:.2e} of the largest logit, over "
                f"{plan.atol:.2e}; nothing was written: {_ADVICE}"
            )


def _effect(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[Half]:
    halves = []
    for one, other in zip(expected, found, strict=True):
        if not np.isfinite(other[np.isfinite(one)]).all():
            return [Half(-1.0, 0.0)]
        halves.append(Half(relative_difference(one, other), float(np.mean(one.argmax(-1) == other.argmax(-1)))))
    return halves
