"""Compares a routed graph with what single-task eager PyTorch answered to the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.bundle import ROUTE_INPUTS, ParityRow

from .errors import VerificationError
from .parity import NOTHING_WRITTEN, excess, parity_row
from .plan import Plan
from .routed import draw_routes, width


def compare_routes(
    session: Any,
    plan: Plan,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    atol: float,
) -> list[ParityRow]:
    """The worst row of each task over all routes. `expected`: task -> [batch, labels], for some of the plan's tasks; `atol`:
    relative to max(1, max |expected|).

    Raises:
        VerificationError: the graph fails, its logits have another shape or type, or logits stand where a task has no labels.
    """
    tasks = {task.name: task for task in plan.tasks}
    numbers = list(tasks)
    groups = {task.name: number for number, group in enumerate(plan.groups) for task in group if task.name in expected}
    labels = max(width(task) for task in plan.tasks)
    worst: dict[str, ParityRow] = {}
    for row_ids, names in draw_routes(groups, shape[0], (plan.drop, *shape)):
        task_ids = np.array([numbers.index(name) for name in names], np.int64)
        where = f"{len(names)} routed row(s) of {', '.join(dict.fromkeys(names))} at {shape[0]}x{shape[1]}"
        try:
            (logits,) = session.run(None, {**inputs, **dict(zip(ROUTE_INPUTS, (row_ids, task_ids), strict=True))})
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise VerificationError(f"the routed graph fails for {where}; nothing was written: {error}") from error
        if logits.shape != (len(names), labels):
            raise VerificationError(f"{NOTHING_WRITTEN}  {where}: expected {[len(names), labels]}, found {list(logits.shape)}")
        for name in dict.fromkeys(names):
            own = task_ids == numbers.index(name)
            found, count = logits[own], width(tasks[name])
            if not np.isneginf(found[:, count:]).all():
                raise VerificationError(f"{NOTHING_WRITTEN}  {where}: {name} has logits beyond its {count} label(s)")
            row = parity_row(tasks[name], expected[name][row_ids[own]], found[:, :count], shape, atol)
            worst[name] = max(worst.get(name, row), row, key=excess)
    return list(worst.values())
