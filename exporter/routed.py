"""What a routed graph can answer, and how wide its answers are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.bundle import ROUTED_HEADS

from .errors import ExportError
from .plan import Plan, Task


def check_routable(plan: Plan) -> None:
    """Refuses, before any work is done, tasks that a routed graph has no room for.

    Raises:
        ExportError: names the tasks that answer a row with more than one vector of logits.
    """
    wrong = [task for task in plan.tasks if task.head.kind not in ROUTED_HEADS]
    if wrong:
        found = ", ".join(f"{task.name} ({task.head.kind})" for task in wrong)
        others = ",".join(task.name for task in plan.tasks if task not in wrong)
        remedy = f"choose the others with --tasks {others}, or leave --routed out" if others else "leave --routed out"
        raise ExportError(
            f"a routed graph answers a row with one vector (heads of type {', '.join(ROUTED_HEADS)}), found {found}: {remedy}"
        )


def width(task: Task) -> int:
    """The number of logits of a routable task."""
    return len(task.head.labels) or 1


def draw_routes(groups: Mapping[str, int], rows: int, seed: tuple[int, ...]) -> list[tuple[np.ndarray, list[str]]]:
    """Routes to verify a routed graph with, as (row_ids, a task for each).

    `groups`: task -> the number of its structure; `rows`: those of the input.

    1. Every task for every row, in random order: rows repeat, and there are more than in the input.
    2. For each structure, one of its tasks for all rows, backwards: the other structures have no rows.
    3. One task for one row: fewer rows than in the input.
    """
    generator = np.random.default_rng(seed)
    names = list(groups)
    order = generator.permutation(rows * len(names))
    routes = [(order % rows, [names[place // rows] for place in order])]
    for number in sorted(set(groups.values())):
        own = [name for name in names if groups[name] == number]
        routes.append((np.arange(rows)[::-1], [own[int(generator.integers(len(own)))]] * rows))
    routes.append((generator.integers(rows, size=1), [names[int(generator.integers(len(names)))]]))
    return [(row_ids.astype(np.int64), tasks) for row_ids, tasks in routes]
