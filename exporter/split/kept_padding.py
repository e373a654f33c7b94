"""Whether the states of a text must be kept with its padding: compared before a bundle says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from exporter.plan import Plan
from exporter.split.sessions import SplitSessions, read_inputs, relative_difference
from exporter.verify.random_inputs import MASKS, make_inputs
from exporter.verify.shapes import shapes_of
from runtime.bundle import StateEntry
from runtime.bundle.interface import SEQUENCE
from runtime.states.padding import Padding

__all__ = ["padding_counts"]

# Largest difference of equal states, relative to the largest number; in int8, rounding of rows moves them by a part of 1/127.
_STATE_TOLERANCE = 2e-2


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
            one, other = whole.run(None, text), branches.run(None, read_inputs(branches, {**text, **again}))
            for a, b in zip(one, other, strict=True):
                if a.ndim > 1 and a.shape[1] == shape[1]:  # logits of tokens; those of the padding have no meaning
                    a, b = a[:, own], b[:, own]
                if not relative_difference(a, b) <= plan.atol:
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
