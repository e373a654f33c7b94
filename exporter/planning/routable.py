"""Which tasks a routed graph can compute."""

from __future__ import annotations

from exporter.errors import ExportError
from exporter.plan import Plan
from runtime.bundle import ROUTED_HEADS


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
