"""Validation of compositions of the adapters library."""

from __future__ import annotations

from typing import Any

from adapters.composition import Average, Fuse, Stack, parse_composition

from exporter.errors import ExportError
from exporter.models.compositions import MANY_TASKS, blocks_of, describe

_ONE_TASK = (Stack, Fuse, Average)


def parse_setup(task: str, setup: Any) -> Any:
    """Validate a composition and return it, or the adapter's name if it consists of a single adapter.

    Args:
        task: the task name, for messages.
        setup: Stack, Fuse and Average blocks nested as the library allows.

    Raises:
        ExportError: the setup is empty, has another type, contains an unsupported block or is nested in an unsupported way.
    """
    try:
        parsed = parse_composition(setup)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the setup of the task {task!r} is not a composition of adapters: {error}") from error
    if parsed is None or parsed == "":
        raise ExportError(f"the setup of the task {task!r} is empty: expected an adapter name or a composition")
    for block in blocks_of(parsed):
        kind = type(block).__name__
        if kind in MANY_TASKS:
            raise ExportError(
                f"the setup of the task {task!r} is {describe(parsed)}: {kind} runs several tasks; name each as a separate task"
            )
        if not isinstance(block, _ONE_TASK):
            raise ExportError(
                f"the setup of the task {task!r} is {describe(parsed)}: {kind} splits a batch or a text into parts of fixed "
                "size, which a graph with dynamic shapes cannot do; expected Stack, Fuse or Average"
            )
    # The library stores a single adapter as a Stack of one.
    return parsed[0] if isinstance(parsed, Stack) and len(parsed) == 1 else parsed
