"""The shapes at which graphs are compared with PyTorch."""

from __future__ import annotations

from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan

# (batch, sequence) of every task. The traced inputs are 2 x 7. Few tokens, because PyTorch runs each task by itself: with 64
# tasks that is most of an export. The tasks of a structure share every node of the graph and differ only in weights, so what
# depends on the length is seen in the first of them, which runs at a single token and at a great length as well.
SHAPES = ((1, 9), (3, 5), (5, 4))
# The shape of which the inputs and outputs are kept for the probe.
PROBE_SHAPE = (3, 5)
_SINGLE = (1, 1)
# Tokens of the greatest length for models without a maximum.
_LONG = 128
# Tokens times tasks at the greatest length; more would take longer than the export itself.
_MAX_TOKENS = 2048


def shapes_of(plan: Plan, of_structure: bool = False) -> list[tuple[int, int]]:
    """Return the shapes, batch and sequence, at which the graphs of a plan are compared; the sequence is 0 for images.

    Args:
        plan: the plan of the graphs.
        of_structure: whether to add the shapes of the first task of a structure.
    """
    if all(SEQUENCE not in entry.shape for entry in plan.inputs):
        # An image has one size: only the batch varies.
        return [(batch, 0) for batch in sorted({batch for batch, _ in SHAPES})]
    longest = plan.max_lengths.get(SEQUENCE)
    shapes = [(batch, min(length, longest or length)) for batch, length in SHAPES]
    if of_structure:
        great = min(longest or _LONG, max(1, _MAX_TOKENS // len(plan.tasks)))
        shapes = [_SINGLE, *shapes, (1, great)]
    return list(dict.fromkeys(shapes))
