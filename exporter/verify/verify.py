"""Verification of exported graphs at shapes that differ from the traced ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.candidate import Candidate
from exporter.verify.eager import eager
from exporter.verify.parity import NOTHING_WRITTEN, parity_row, tolerance_ratio
from exporter.verify.random_inputs import MASKS, Masks, make_inputs
from exporter.verify.routes import compare_routes
from runtime.bundle import ParityRow

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
Library = Callable[[str], Any]


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        rows: one per task and shape for the first candidate, the larger difference of its graph and its routed graph.
        probed: the inputs of `PROBE_SHAPE` and the outputs of the first candidate's graph for them, if every task was compared
            there, otherwise None.
    """

    rows: tuple[ParityRow, ...]
    probed: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None


def verify(
    task_groups: Sequence[TaskGroup], plan: Plan, candidates: Sequence[Candidate], library: Library | None = None
) -> Verified:
    """Compare graphs with PyTorch: every task at SHAPES, the first task of each structure also at one token and a great length.

    The great length is the model's maximum, which is reduced with many tasks.

    Args:
        task_groups: the pruned models.
        plan: the plan of the graphs.
        candidates: the graphs; all must be within their tolerance.
        library: adapter -> the model that its library loaded, which takes the place of the pruned models; None without one.

    Raises:
        VerificationError: a graph fails or exceeds its tolerance; the message lists each task and shape.
    """
    runs = _Runs(plan, candidates)
    rows = dict[tuple[str, tuple[int, int]], list[ParityRow]]()
    every, first = shapes_of(plan), shapes_of(plan, of_structure=True)
    for task_group in task_groups:
        for task in task_group.tasks:
            # All shapes of a task one after the other: the library's model is loaded for each task.
            model = None if library is None else TaskGroup((task,), library(task.setup))
            for shape in first if task is task_group.tasks[0] else every:
                rows[task.name, shape] = _compare(runs, model or task_group, task, shape, activate=model is None)
    for shape, masks in runs.known:
        for number, row in runs.compare_routes(shape, masks):
            own = rows[row.task, shape]
            own[number] = max(own[number], row, key=tolerance_ratio)
    failed = [row for found in rows.values() for row in found if not row.max_abs_diff <= row.tolerance]
    if failed:
        lines = [
            f"  {row.task} at {row.batch}x{row.sequence}: max |onnx - torch| {row.max_abs_diff:.2e}, over {row.tolerance:.2e}"
            for row in failed
        ]
        raise VerificationError(NOTHING_WRITTEN + "\n".join(lines))
    order = {task.name: number for number, task in enumerate(plan.tasks)}
    return Verified(tuple(sorted((found[0] for found in rows.values()), key=lambda row: order[row.task])), runs.probed())


class _Runs:
    """The outputs of the graphs, which compute all tasks at once, for each shape and kind of masks.

    Attributes:
        known: shape and masks -> task -> PyTorch's first output.
    """

    def __init__(self, plan: Plan, candidates: Sequence[Candidate]) -> None:
        self.plan = plan
        self.candidates = candidates
        self.known: dict[tuple[tuple[int, int], Masks], dict[str, np.ndarray]] = {}
        self._found: dict[tuple[tuple[int, int], Masks], tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]] = {}

    def at(self, shape: tuple[int, int], masks: Masks) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """Return the inputs, and the outputs of each candidate."""
        if (shape, masks) not in self._found:
            inputs = make_inputs(self.plan, *shape, masks=masks)
            names = [name for outputs in self.plan.outputs.values() for name in outputs]
            try:
                found = [dict(zip(names, each.graph.run(names, inputs), strict=True)) for each in self.candidates]
            except Exception as error:
                raise VerificationError(
                    f"the exported graph fails at {shape[0]}x{shape[1]}; nothing was written: {error}"
                ) from error
            self._found[shape, masks] = inputs, found
        return self._found[shape, masks]

    def compare_routes(self, shape: tuple[int, int], masks: Masks) -> Iterator[tuple[int, ParityRow]]:
        """Yield the rows of the routed graphs, with the number of the candidate."""
        for number, candidate in enumerate(self.candidates):
            if candidate.routed is not None:
                inputs, known = self.at(shape, masks)[0], self.known[shape, masks]
                for row in compare_routes(candidate, self.plan, inputs, known, shape):
                    yield number, row

    def probed(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
        """The inputs and outputs at `PROBE_SHAPE`."""
        if len(self.known.get((PROBE_SHAPE, MASKS[0]), ())) < len(self.plan.tasks):
            return None
        inputs, found = self.at(PROBE_SHAPE, MASKS[0])
        return inputs, found[0]


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


def _compare(runs: _Runs, task_group: TaskGroup, task: Task, shape: tuple[int, int], activate: bool) -> list[ParityRow]:
    """Return a row per candidate.

    A task for which PyTorch fails, or has no finite logits, is compared with masks of fewer kinds.
    """
    for masks in MASKS:
        inputs, results = runs.at(shape, masks)
        expected = _expected(task_group, runs.plan, task, inputs, shape, last=masks == MASKS[-1], activate=activate)
        if expected is not None:
            break
    assert expected is not None  # of the last masks
    runs.known.setdefault((shape, masks), {})[task.name] = expected[0]
    return [
        _worst(task, expected, [found[name] for name in runs.plan.outputs[task.name]], shape, candidate, inputs)
        for found, candidate in zip(results, runs.candidates, strict=True)
    ]


def _expected(
    task_group: TaskGroup,
    plan: Plan,
    task: Task,
    inputs: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    last: bool,
    activate: bool,
) -> list[np.ndarray] | None:
    """Return PyTorch's outputs; None where it fails or has no finite ones, unless these are the `last` masks to try."""
    try:
        expected = eager(task_group, plan, task, inputs, activate)
    except Exception as error:  # raised by the model, for example by ReFT for a text that is shorter than its positions
        if last:
            reason = f"PyTorch fails on the task {task.name!r} at {shape[0]}x{shape[1]}"
            raise VerificationError(f"{reason}; nothing was written: {error}") from error
        return None
    return expected if last or all(np.isfinite(output).all() for output in expected) else None


def _worst(
    task: Task,
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    shape: tuple[int, int],
    candidate: Candidate,
    inputs: Mapping[str, np.ndarray],
) -> ParityRow:
    """Return the row of the output with the largest difference, for a head with several outputs."""
    kept = candidate.compared(inputs)
    pairs = [(one, other) for one, other in zip(expected, found, strict=True)]
    if not kept.all():
        pairs = [(one[kept], other[kept]) if one.shape == other.shape else (one, other) for one, other in pairs]
    return max((parity_row(task, *pair, shape, candidate.atol) for pair in pairs), key=tolerance_ratio)
