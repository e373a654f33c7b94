"""Comparison of a routed graph with single-task eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan, Task
from exporter.verify.candidate import Candidate
from exporter.verify.parity import NOTHING_WRITTEN, parity_row, tolerance_ratio
from runtime.bundle import ROUTE_INPUTS, ParityRow


def compare_routes(
    candidate: Candidate,
    plan: Plan,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    shape: tuple[int, int],
) -> list[ParityRow]:
    """Compare a routed graph with PyTorch's outputs for the same inputs.

    Args:
        candidate: the graphs; the routed one is compared.
        plan: the plan of the graph.
        inputs: input name -> array.
        expected: task name -> PyTorch's logits, [batch, labels], for some of the plan's tasks.
        shape: batch and sequence of the inputs.

    Returns:
        For each task of `expected`, the row with the largest difference over all routes.

    Raises:
        VerificationError: the graph fails, its logits have another shape or type, or columns beyond a task's labels are not
            -infinity.
    """
    tasks = {task.name: task for task in plan.tasks}
    numbers = list(tasks)
    groups = {task.name: number for number, group in enumerate(plan.groups) for task in group if task.name in expected}
    labels = max(width(task) for task in plan.tasks)
    assert candidate.routed is not None  # as its caller knows
    kept = candidate.compared(inputs)
    worst: dict[str, ParityRow] = {}
    for row_ids, names in draw_routes(groups, shape[0], (plan.drop, *shape)):
        task_ids = np.array([numbers.index(name) for name in names], np.int64)
        where = f"{len(names)} routed row(s) of {', '.join(dict.fromkeys(names))} at {shape[0]}x{shape[1]}"
        try:
            (logits,) = candidate.routed.run(None, {**inputs, **dict(zip(ROUTE_INPUTS, (row_ids, task_ids), strict=True))})
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise VerificationError(f"the routed graph fails for {where}; nothing was written: {error}") from error
        if logits.shape != (len(names), labels):
            raise VerificationError(f"{NOTHING_WRITTEN}  {where}: expected {[len(names), labels]}, found {list(logits.shape)}")
        for name in dict.fromkeys(names):
            own = (task_ids == numbers.index(name)) & kept[row_ids]
            found, count = logits[own], width(tasks[name])
            if not np.isneginf(found[:, count:]).all():
                raise VerificationError(f"{NOTHING_WRITTEN}  {where}: {name} has logits beyond its {count} label(s)")
            if not own.any():
                continue
            row = parity_row(tasks[name], expected[name][row_ids[own]], found[:, :count], shape, candidate.atol)
            worst[name] = max(worst.get(name, row), row, key=tolerance_ratio)
    return list(worst.values())


def width(task: Task) -> int:
    """Return the number of columns of a routable task: its logits, or the numbers of an embedding."""
    return task.head.width or len(task.head.labels) or 1


def draw_routes(groups: Mapping[str, int], rows: int, seed: tuple[int, ...]) -> list[tuple[np.ndarray, list[str]]]:
    """Draw routes for the verification of a routed graph.

    1. Every task for every row, in random order: input rows repeat, and there are more routed rows than input rows.
    2. For each structure, one of its tasks for all rows in reverse order: the other structures have no rows.
    3. One task for one row: fewer routed rows than input rows.

    Args:
        groups: task name -> number of its structure.
        rows: number of input rows.
        seed: of the random generator.

    Returns:
        Pairs of row_ids and task names, one name per routed row.
    """
    generator = np.random.default_rng(seed)
    names = list(groups)
    order = generator.permutation(rows * len(names))
    routes = [(order % rows, [names[pair // rows] for pair in order])]
    for number in sorted(set(groups.values())):
        own = [name for name in names if groups[name] == number]
        routes.append((np.arange(rows)[::-1], [own[int(generator.integers(len(own)))]] * rows))
    routes.append((generator.integers(rows, size=1), [names[int(generator.integers(len(names)))]]))
    return [(row_ids.astype(np.int64), tasks) for row_ids, tasks in routes]
