"""Comparison of the trunk and the branches, run one after the other, with the whole graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan
from exporter.verify.candidate import open_graph
from exporter.verify.random_inputs import MASKS, make_inputs
from exporter.verify.routes import draw_routes
from exporter.verify.shapes import shapes_of
from runtime.bundle import ROUTE_INPUTS, StateEntry
from runtime.bundle.interface import SEQUENCE
from runtime.bundle.split_entry import split_files
from runtime.states.padding import Padding

__all__ = ["Half", "SplitSessions", "compare_split", "padding_counts"]

# Largest difference of equal states, relative to the largest number; in int8, rounding of rows moves them by a part of 1/127.
_STATE_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Half:
    """The effect of states in fp16 on the logits.

    Attributes:
        difference: largest difference of a logit relative to max(1, max |logit|); -1 if a state exceeds the range of fp16.
        agreement: fraction of logit vectors with the same argmax.
    """

    difference: float
    agreement: float


@dataclass(frozen=True)
class RowGraphs:
    """The counterpart of the branches of a routed graph, or of one with slots, in the comparison.

    Attributes:
        whole: file of the whole graph.
        tasks: number of its tasks, or of the slots of all groups.
        weights: input -> the weights of all slots, those of the bundle's tasks; empty for a routed graph.
    """

    whole: str
    tasks: int
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RowSessions:
    """Sessions of a routed graph, or of one with slots.

    Attributes:
        whole: the whole graph.
        branches: the graph of its branches.
        given: its tasks and weights.
    """

    whole: Any
    branches: Any
    given: RowGraphs


@dataclass(frozen=True, eq=False)
class SplitSessions:
    """Sessions of the whole graph and of its parts.

    Attributes:
        whole: the graph of all tasks.
        trunk: the graph of the trunk.
        branches: the graph of the branches.
        branches_file: file name of the latter, for messages.
        rows: file of the branches of a routed graph or of one with slots -> the graphs.
    """

    whole: Any
    trunk: Any
    branches: Any
    branches_file: str
    rows: Mapping[str, RowSessions]

    @classmethod
    def load(cls, folder: Path, model: str, rows: Mapping[str, RowGraphs]) -> SplitSessions:
        """Open the sessions.

        Args:
            folder: the folder of the graphs.
            model: the file of the whole graph.
            rows: file of the branches of a routed graph or of one with slots -> its counterpart.

        Raises:
            VerificationError: ONNX Runtime cannot load a graph.
        """
        trunk, branches = split_files(model)
        pairs = {}
        for part, each in rows.items():
            first, second = (open_graph(folder / name, routed=True) for name in (each.whole, part))
            pairs[part] = RowSessions(first, second, each)
        whole, first, second = (open_graph(folder / name) for name in (model, trunk, branches))
        return cls(whole, first, second, branches, pairs)


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
            found = branches.run(None, _read(branches, {**inputs, **given}))
            _compare(expected, found, plan, shape, graphs.branches_file)
        with np.errstate(over="ignore"):
            rounded = {name: array.astype(np.float16).astype(array.dtype) for name, array in given.items()}
        halves += _effect(expected, branches.run(None, _read(branches, {**inputs, **rounded})))
        if graphs.rows:
            groups = {task.name: number for number, group in enumerate(plan.groups) for task in group}
            numbers = [task.name for task in plan.tasks]
            for row_ids, names in draw_routes(groups, shape[0], (plan.drop, *shape)):
                task_ids = np.array([numbers.index(name) for name in names])
                for name, pair in graphs.rows.items():
                    ids = dict(zip(ROUTE_INPUTS, (row_ids, task_ids % pair.given.tasks), strict=True))
                    values = {**inputs, **given, **ids, **pair.given.weights}
                    one, other = (each.run(None, _read(each, values)) for each in (pair.whole, pair.branches))
                    _compare(one, other, plan, shape, name)
    if any(half.difference < 0 for half in halves):
        return Half(-1.0, 0.0)
    return Half(max(half.difference for half in halves), float(np.mean([half.agreement for half in halves])))


def padding_counts(graphs: SplitSessions, plan: Plan, states: Sequence[StateEntry], left: bool) -> bool:
    """Return whether a text must be kept with its padding: without it, its states or logits are others.

    States depend on padding on the left if they hold keys that were rotated by positions in the batch, or absolute positions.
    Logits depend on padding if layers read neighbouring tokens without a mask: here the padding that is added to states again
    is zeros. Both depend on it where longrope changes its frequencies at a length that texts may have, which may be greater
    than any that is compared here.

    Args:
        graphs: the sessions.
        plan: the plan of the graph.
        states: the states that the branches read.
        left: whether the bundle pads texts on the left.
    """
    if all(SEQUENCE not in state.shape for state in states) or all(each.name != "attention_mask" for each in plan.inputs):
        return False
    if plan.switch_length is not None and plan.switch_length < plan.max_lengths.get(SEQUENCE, sys.maxsize):
        return True
    whole, trunk, branches = graphs.whole, graphs.trunk, graphs.branches
    names = [state.name for state in states]
    padding = Padding.of(plan.inputs, states, left, plan.padding_id or 0, False)
    for shape in shapes_of(plan):
        inputs = make_inputs(plan, *shape, masks=MASKS[0])
        columns = padding.extents(inputs)
        for row, own in enumerate(columns):
            if own == slice(0, shape[1]):
                continue
            text = {name: array[row : row + 1] for name, array in inputs.items()}
            padded = dict(zip(names, trunk.run(names, text), strict=True))
            found = dict(zip(names, trunk.run(names, padding.cut(text, own)), strict=True))
            if any(_differs(array, found[name]) for name, array in padding.cut(padded, own).items()):
                return True
            again = padding.batch([{name: array[0] for name, array in found.items()}], names, shape[1])
            one, other = whole.run(None, text), branches.run(None, _read(branches, {**text, **again}))
            for a, b in zip(one, other, strict=True):
                if a.ndim > 1 and a.shape[1] == shape[1]:  # logits of tokens; those of the padding have no meaning
                    a, b = a[:, own], b[:, own]
                if not _relative_difference(a, b) <= plan.atol:
                    return True
    return False


def _differs(expected: np.ndarray, found: np.ndarray) -> bool:
    """Return whether states differ by more than the rounding of any precision, far less than a rotation by one position."""
    if expected.dtype.kind != "f":
        return not np.array_equal(expected, found)
    finite = np.isfinite(expected)
    if expected.shape != found.shape or not np.array_equal(finite, np.isfinite(found)):
        return True
    one, other = (array[finite].astype(np.float64) for array in (expected, found))
    return bool(np.abs(one - other).max(initial=0.0) > _STATE_TOLERANCE * np.abs(one).max(initial=0.0))


def _states(trunk: Any, names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the states of the batch, computed together and text by text."""
    together = dict(zip(names, trunk.run(list(names), dict(inputs)), strict=True))
    count = len(next(iter(inputs.values())))
    rows = [trunk.run(list(names), {name: array[row : row + 1] for name, array in inputs.items()}) for row in range(count)]
    return [together, {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*rows, strict=True), strict=True)}]


def _read(session: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {value.name: values[value.name] for value in session.get_inputs()}


def _compare(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], plan: Plan, shape: tuple[int, int], graph: str
) -> None:
    for one, other in zip(expected, found, strict=True):
        where = f"{graph} at {shape[0]}x{shape[1] or 1}"
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            raise VerificationError(
                f"the split graph {where} differs from the whole graph; nothing was written: expected {list(one.shape)} with "
                f"{int(np.isfinite(one).sum())} finite values, found {list(other.shape)} with {int(np.isfinite(other).sum())}"
            )
        difference = _relative_difference(one, other)
        if not difference <= plan.atol:
            raise VerificationError(
                f"the split graph {where} differs from the whole graph by {difference:.2e} of the largest logit, over "
                f"{plan.atol:.2e}; nothing was written: export without --split, and report it with the model's configuration"
            )


def _relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference where `expected` is finite, relative to max(1, max |expected|)."""
    finite = np.isfinite(expected)
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    return float(np.abs(expected[finite].astype(np.float64) - found[finite]).max(initial=0.0)) / scale


def _effect(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[Half]:
    halves = []
    for one, other in zip(expected, found, strict=True):
        if not np.isfinite(other[np.isfinite(one)]).all():
            return [Half(-1.0, 0.0)]
        halves.append(Half(_relative_difference(one, other), float(np.mean(one.argmax(-1) == other.argmax(-1)))))
    return halves
