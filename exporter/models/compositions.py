"""Adapter setups of tasks as compositions of the adapters library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapters.composition import AdapterCompositionBlock, Average, Fuse, Stack, parse_composition

from exporter.errors import ExportError

_ONE_TASK = (Stack, Fuse, Average)
# Compositions whose children are separate tasks.
_MANY_TASKS = ("Parallel", "MultiTask")


def parse_setup(task: str, setup: Any) -> Any:
    """Validate a setup and return it as an adapter name or a composition.

    Args:
        task: the task name, for messages.
        setup: an adapter name, or Stack, Fuse and Average blocks nested as the library allows.

    Raises:
        ExportError: the setup is empty, has another type, contains an unsupported block or is nested in an unsupported way.
    """
    try:
        parsed = setup if isinstance(setup, str) else parse_composition(setup)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the setup of the task {task!r} is not a composition of adapters: {error}") from error
    if parsed is None or parsed == "":
        raise ExportError(f"the setup of the task {task!r} is empty: expected an adapter name or a composition")
    for block in _blocks(parsed):
        kind = type(block).__name__
        if kind in _MANY_TASKS:
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


def split_tasks(setup: Any) -> list[Any]:
    """Return the setup of each task in a checkpoint's setup: the children of Parallel or MultiTask, or the setup itself."""
    return list(setup.children) if type(setup).__name__ in _MANY_TASKS else [setup]


def task_name(setup: Any) -> str:
    """Return the name that the library gives the head of a setup: the fusion's name, or that of the last adapter."""
    if isinstance(setup, str):
        return setup
    last = setup.children[-1] if isinstance(setup, Stack) else setup
    return str(last.name) if isinstance(last, Fuse) else str(setup.last())


def adapters_of(setup: Any) -> tuple[str, ...]:
    """Return the adapter names in order, without duplicates."""
    if isinstance(setup, str):
        return (setup,)
    return tuple(dict.fromkeys(name for child in setup.children for name in adapters_of(child)))


def fusions_of(setup: Any) -> tuple[str, ...]:
    """Return the names of the fusion layers, in order."""
    return tuple(str(fuse.name) for fuse in fuses_of(setup))


def names_of(setup: Any) -> tuple[str, ...]:
    """Return the names of adapters and fusion layers, in the same order for all tasks with equal structure."""
    return (*adapters_of(setup), *fusions_of(setup))


def fuses_of(setup: Any) -> Iterator[Fuse]:
    """Yield the Fuse blocks of a composition, in order."""
    return (block for block in _blocks(setup) if isinstance(block, Fuse))


def describe(setup: Any) -> str:
    """Return a setup in readable form, such as "Stack(en, Fuse(a, b))"."""
    if isinstance(setup, str):
        return setup
    return f"{type(setup).__name__}({', '.join(describe(child) for child in setup.children)})"


def shape_of(setup: Any, slots: dict[str, int]) -> Any:
    """Return the composition as JSON types, with each adapter's slot in place of its name.

    Equal for two tasks that compose their adapters in the same way.
    """
    if isinstance(setup, str):
        return slots[setup]
    weights = list(setup.weights) if isinstance(setup, Average) else None
    return [type(setup).__name__, weights, [shape_of(child, slots) for child in setup.children]]


def _blocks(setup: Any) -> Iterator[AdapterCompositionBlock]:
    if isinstance(setup, AdapterCompositionBlock):
        yield setup
        for child in setup.children:
            yield from _blocks(child)
