"""Verification of exported graphs at shapes that differ from the traced ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.candidate import Candidate
from exporter.verify.eager import eager
from exporter.verify.exact import in_fp64, may_be_rounding, widened, with_rounding
from exporter.verify.parity import NOTHING_WRITTEN, parity_row, tolerance_ratio
from exporter.verify.random_inputs import MASKS
from exporter.verify.runs import Runs
from exporter.verify.shapes import shapes_of
from runtime.bundle import ParityRow

Library = Callable[[str], Any]
# The largest multiple of its tolerance that rounding in fp16 was seen to reach, twice over.
_AMPLIFIED = 4.0


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        rows: one per task and shape for the first candidate, the larger difference of its graph and its routed graph.
        probed: the inputs of `PROBE_SHAPE` and the outputs of the first candidate's graph for them, if every task was compared
            there, otherwise None.
        exact: tasks that were compared with PyTorch in fp64 -> the largest difference from PyTorch in fp32 there.
    """

    rows: tuple[ParityRow, ...]
    probed: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None
    exact: Mapping[str, float]


def verify(
    task_groups: Sequence[TaskGroup], plan: Plan, candidates: Sequence[Candidate], library: Library | None = None
) -> Verified:
    """Compare graphs with PyTorch: every task at SHAPES, the first task of each structure also at one token and a great length.

    The great length is the model's maximum, which is reduced with many tasks. Where a difference exceeds its tolerance, but not
    by more than rounding can explain, the graph is compared with PyTorch in fp64, from which it may differ as much as PyTorch
    in fp32 does.

    Args:
        task_groups: the pruned models.
        plan: the plan of the graphs.
        candidates: the graphs; all must be within their tolerance.
        library: adapter -> the model that its library loaded, which takes the place of the pruned models; None without one.

    Raises:
        VerificationError: a graph fails or exceeds its tolerance; the message lists each task and shape.
    """
    runs = Runs(plan, candidates)
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
    exact = _decide(runs, task_groups, rows, library)
    failed = [row for found in rows.values() for row in found if not row.max_abs_diff <= row.tolerance]
    if failed:
        lines = [
            f"  {row.task} at {row.batch}x{row.sequence}: max |onnx - torch| {row.max_abs_diff:.2e}, over {row.tolerance:.2e}"
            for row in failed
        ]
        raise VerificationError(NOTHING_WRITTEN + "\n".join([*lines, *_advice(plan.precision, failed)]))
    order = {task.name: number for number, task in enumerate(plan.tasks)}
    return Verified(tuple(sorted((found[0] for found in rows.values()), key=lambda row: order[row.task])), runs.probed(), exact)


def _advice(precision: str, failed: Sequence[ParityRow]) -> list[str]:
    """Return a line on what to try where all differences may be the rounding of fp16, which random tokens can amplify."""
    if precision != "fp16" or not all(row.max_abs_diff <= _AMPLIFIED * row.tolerance for row in failed):
        return []
    return [
        "  these may be rounding in fp16, with random tokens: allow more (--atol), and see what your texts lose (--evaluation)"
    ]


def _decide(
    runs: Runs,
    task_groups: Sequence[TaskGroup],
    rows: dict[tuple[str, tuple[int, int]], list[ParityRow]],
    library: Library | None,
) -> dict[str, float]:
    """Replace rows that may exceed their tolerance by PyTorch's rounding by those relative to PyTorch in fp64.

    Returns:
        Tasks that were compared with PyTorch in fp64 -> the largest difference from PyTorch in fp32 there.
    """
    differences: dict[str, float] = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            near = {
                shape: difference
                for (name, shape), found in rows.items()
                if name == task.name and (difference := _rounding(found, runs.candidates))
            }
            if not near:
                continue
            own_group = task_group if library is None else TaskGroup((task,), library(task.setup))
            wide = widened(own_group)
            for shape, difference in near.items():
                masks = next(kind for kind in MASKS if task.name in runs.known.get((shape, kind), ()))
                inputs, results = runs.at(shape, masks)
                if (exact := in_fp64(own_group, wide, runs.plan, task, inputs, activate=library is None)) is None:
                    continue
                expected, rounding = exact
                differences[task.name] = max(difference, differences.get(task.name, 0.0))
                runs.known[shape, masks][task.name] = expected[0]
                own = _rows(runs, task, shape, inputs, results, expected)
                for number, row in runs.compare_routes(shape, masks, task.name):
                    own[number] = max(own[number], row, key=tolerance_ratio)
                rows[task.name, shape] = [with_rounding(row, rounding) for row in own]
    return differences


def _rounding(rows: Sequence[ParityRow], candidates: Sequence[Candidate]) -> float:
    """Return the largest difference that may be PyTorch's rounding; 0 if none may."""
    pairs = zip(rows, candidates, strict=True)
    return max((row.max_abs_diff for row, candidate in pairs if may_be_rounding(row, candidate.atol)), default=0.0)


def _compare(runs: Runs, task_group: TaskGroup, task: Task, shape: tuple[int, int], activate: bool) -> list[ParityRow]:
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
    return _rows(runs, task, shape, inputs, results, expected)


def _rows(
    runs: Runs,
    task: Task,
    shape: tuple[int, int],
    inputs: Mapping[str, np.ndarray],
    results: Sequence[Mapping[str, np.ndarray]],
    expected: Sequence[np.ndarray],
) -> list[ParityRow]:
    """Compare the outputs of a task of each candidate with PyTorch's."""
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
