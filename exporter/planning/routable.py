"""Validation of tasks for a routed graph."""

from __future__ import annotations

from exporter.errors import ExportError
from exporter.plan import Plan
from runtime.bundle import ROUTED_HEADS


def check_routable(plan: Plan, otherwise: str) -> None:
    """Check, before tracing, that a routed graph can compute all tasks of the plan.

    Args:
        plan: the plan.
        otherwise: what to do without a routed graph, such as "omit --routed".

    Raises:
        ExportError: a task has more than one vector of logits per row.
    """
    wrong = [task for task in plan.tasks if task.head.kind not in ROUTED_HEADS]
    if wrong:
        found = ", ".join(f"{task.name} ({task.head.kind})" for task in wrong)
        others = ",".join(task.name for task in plan.tasks if task not in wrong)
        remedy = f"select the others with --tasks {others}, or {otherwise}" if others else otherwise
        raise ExportError(
            f"a routed graph gives one vector per row (heads of type {', '.join(ROUTED_HEADS)}), found {found}: {remedy}"
        )
