"""Verification of exported graphs at shapes that differ from the traced ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from exporter.errors import VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.eager import eager
from exporter.verify.parity import NOTHING_WRITTEN, parity_row, tolerance_ratio
from exporter.verify.random_inputs import MASKS, Masks, make_inputs
from exporter.verify.routes import compare_routes
from runtime.bundle import ParityRow
from runtime.ort.empty_tensors import safe_arguments

# (batch, sequence). The traced inputs are 2 x 7.
SHAPES = ((1, 1), (1, 16), (3, 11), (5, 4))
# Tokens times tasks at the model's maximum length; more would take longer than the export itself.
_MAX_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Candidate:
    """A loaded graph to be compared with PyTorch.

    Attributes:
        graph: the ONNX Runtime session of the graph of all tasks.
        atol: allowed |onnx - torch| relative to max(1, max |torch|).
        routed: the session of the routed graph of the same tasks, or None.
    """

    graph: Any
    atol: float
    routed: Any | None

    @classmethod
    def load(cls, graph: Path, atol: float, routed: Path | None = None) -> Candidate:
        """Create sessions for a saved graph and its routed graph.

        Args:
            graph: the graph's file.
            atol: allowed |onnx - torch| relative to max(1, max |torch|).
            routed: the routed graph's file, or None.

        Raises:
            VerificationError: ONNX Runtime cannot load a graph.
        """
        return cls(open_graph(graph), atol, None if routed is None else open_graph(routed, routed=True))


def open_graph(graph: Path, routed: bool = False) -> Any:
    """Create a session of ONNX Runtime for a saved graph.

    Args:
        graph: the graph's file.
        routed: whether it is a routed graph.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """
    arguments = safe_arguments() if routed else {}
    try:
        return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"], **arguments)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise VerificationError(f"ONNX Runtime cannot load the exported graph; nothing was written: {error}") from error


def verify(
    task_groups: Sequence[TaskGroup], plan: Plan, candidates: Sequence[Candidate], outputs: Mapping[str, Sequence[str]]
) -> tuple[ParityRow, ...]:
    """Compare graphs with PyTorch: every task at SHAPES, the first task of each structure also at the model's maximum length.

    With many tasks, the maximum length is reduced.

    Args:
        task_groups: the pruned models.
        plan: the plan of the graphs.
        candidates: the graphs; all must be within their tolerance.
        outputs: task name -> names of its outputs in the graphs.

    Returns:
        One row per task and shape for the first candidate, the larger difference of its graph and its routed graph.

    Raises:
        VerificationError: a graph fails or exceeds its tolerance; the message lists each task and shape.
    """
    every = [(task_group, task) for task_group in task_groups for task in task_group.tasks]
    rows = [row for shape in shapes_of(plan) for row in _compare(candidates, plan, every, outputs, shape)]
    longest = plan.max_lengths.get(SEQUENCE)
    if longest is not None:
        longest = max(1, min(longest, _MAX_TOKENS // len(plan.tasks)))
        rows += _compare(
            candidates, plan, [(task_group, task_group.tasks[0]) for task_group in task_groups], outputs, (1, longest)
        )
    failed = [row for found in rows for row in found if not row.max_abs_diff <= row.tolerance]
    if failed:
        lines = [
            f"  {row.task} at {row.batch}x{row.sequence}: max |onnx - torch| {row.max_abs_diff:.2e}, over {row.tolerance:.2e}"
            for row in failed
        ]
        raise VerificationError(NOTHING_WRITTEN + "\n".join(lines))
    order = {task.name: number for number, task in enumerate(plan.tasks)}
    return tuple(sorted((found[0] for found in rows), key=lambda row: order[row.task]))


def shapes_of(plan: Plan) -> list[tuple[int, int]]:
    """Return the shapes, batch and sequence, at which the graphs of a plan are compared; the sequence is 0 for images."""
    if all(SEQUENCE not in entry.shape for entry in plan.inputs):
        # An image has one size: only the batch varies.
        return [(batch, 0) for batch in sorted({batch for batch, _ in SHAPES})]
    return [shape for shape in SHAPES if shape[1] <= plan.max_lengths.get(SEQUENCE, shape[1])]


def _compare(
    candidates: Sequence[Candidate],
    plan: Plan,
    tasks: Sequence[tuple[TaskGroup, Task]],
    outputs: Mapping[str, Sequence[str]],
    shape: tuple[int, int],
    masks: Masks = MASKS[0],
) -> list[list[ParityRow]]:
    """Return a row per candidate for each task.

    Tasks for which PyTorch fails, or has no finite logits, are compared with masks of fewer kinds.
    """
    inputs = make_inputs(plan, *shape, masks=masks)
    names = [name for _, task in tasks for name in outputs[task.name]]
    try:
        results = [dict(zip(names, candidate.graph.run(names, inputs), strict=True)) for candidate in candidates]
    except Exception as error:
        raise VerificationError(f"the exported graph fails at {shape[0]}x{shape[1]}; nothing was written: {error}") from error
    rows: dict[str, list[ParityRow]] = {}
    known: dict[str, np.ndarray] = {}
    postponed = []
    for task_group, task in tasks:
        expected = _expected(task_group, plan, task, inputs, shape, last=masks == MASKS[-1])
        if expected is None:
            postponed.append((task_group, task))
            continue
        known[task.name] = expected[0]
        rows[task.name] = [
            _worst(task, expected, [found[name] for name in outputs[task.name]], shape, candidate.atol)
            for found, candidate in zip(results, candidates, strict=True)
        ]
    for number, candidate in enumerate(candidates):
        if candidate.routed is not None and known:
            for row in compare_routes(candidate.routed, plan, inputs, known, shape, candidate.atol):
                rows[row.task][number] = max(rows[row.task][number], row, key=tolerance_ratio)
    if not postponed:
        return list(rows.values())
    return [*rows.values(), *_compare(candidates, plan, postponed, outputs, shape, MASKS[MASKS.index(masks) + 1])]


def _expected(
    task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray], shape: tuple[int, int], last: bool
) -> list[np.ndarray] | None:
    """Return PyTorch's outputs; None where it fails or has no finite ones, unless these are the `last` masks to try."""
    try:
        expected = eager(task_group, plan, task, inputs)
    except Exception as error:  # raised by the model, for example by ReFT for a text that is shorter than its positions
        if last:
            reason = f"PyTorch fails on the task {task.name!r} at {shape[0]}x{shape[1]}"
            raise VerificationError(f"{reason}; nothing was written: {error}") from error
        return None
    return expected if last or all(np.isfinite(output).all() for output in expected) else None


def _worst(
    task: Task, expected: Sequence[np.ndarray], found: Sequence[np.ndarray], shape: tuple[int, int], atol: float
) -> ParityRow:
    """Return the row of the output with the largest difference, for a head with several outputs."""
    return max(
        (parity_row(task, one, other, shape, atol) for one, other in zip(expected, found, strict=True)), key=tolerance_ratio
    )
