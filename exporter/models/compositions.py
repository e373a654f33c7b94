"""Adapter setups of tasks: an adapter's name, or a composition of the adapters library.

The blocks of compositions are recognized by the names of their classes, because a setup that is a name must be read without
the adapters library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from exporter.errors import ExportError
from exporter.families import adapterhub_module

# Compositions whose children are separate tasks.
MANY_TASKS = ("Parallel", "MultiTask")
# layer -> the members of a fusion that are kept there, in the fusion's order. A layer that is absent keeps all members.
Kept = Mapping[int, tuple[str, ...]]


def parse_setup(task: str, setup: Any) -> Any:
    """Validate a setup and return it as an adapter name or a composition.

    Args:
        task: the task name, for messages.
        setup: an adapter name, or Stack, Fuse and Average blocks nested as the adapters library allows.

    Raises:
        ExportError: the setup is empty, has another type, contains an unsupported block or is nested in an unsupported way.
    """
    if setup is None or (isinstance(setup, str | list | tuple) and not setup):
        raise ExportError(f"the setup of the task {task!r} is empty: expected an adapter name or a composition")
    if isinstance(setup, str):
        return setup
    return adapterhub_module("models", "setups", f"a composition, the setup of the task {task!r},").parse_setup(task, setup)


def split_tasks(setup: Any) -> list[Any]:
    """Return the setup of each task in a checkpoint's setup: the children of Parallel or MultiTask, or the setup itself."""
    return list(setup.children) if is_block(setup, *MANY_TASKS) else [setup]


def task_name(setup: Any) -> str:
    """Return the name that the library gives the head of a setup: the fusion's name, or that of the last adapter."""
    if isinstance(setup, str):
        return setup
    last = setup.children[-1] if is_block(setup, "Stack") else setup
    return str(last.name) if is_block(last, "Fuse") else str(setup.last())


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


def fuses_of(setup: Any) -> Iterator[Any]:
    """Yield the Fuse blocks of a composition, in order."""
    return (block for block in blocks_of(setup) if is_block(block, "Fuse"))


def describe(setup: Any) -> str:
    """Return a setup in readable form, such as "Stack(en, Fuse(a, b))"."""
    if isinstance(setup, str):
        return setup
    return f"{type(setup).__name__}({', '.join(describe(child) for child in setup.children)})"


def shape_of(setup: Any, numbers: dict[str, int]) -> Any:
    """Return the composition as JSON types, with each adapter's number in place of its name.

    Equal for two tasks that compose their adapters in the same way.
    """
    if isinstance(setup, str):
        return numbers[setup]
    weights = list(setup.weights) if is_block(setup, "Average") else None
    return [type(setup).__name__, weights, [shape_of(child, numbers) for child in setup.children]]


def blocks_of(setup: Any) -> Iterator[Any]:
    """Yield the blocks of a composition, from the outermost to the innermost; none for an adapter's name."""
    if is_block(setup, "AdapterCompositionBlock"):
        yield setup
        for child in setup.children:
            yield from blocks_of(child)


def is_block(setup: Any, *names: str) -> bool:
    """Return whether a setup is a composition block of one of the classes with these names, or of a subclass."""
    return any(kind.__name__ in names for kind in type(setup).__mro__)


def members_of(fuse: Any) -> tuple[str, ...]:
    """Return the names of a fusion's members.

    Raises:
        ExportError: the fusion contains a member twice.
    """
    names = tuple(describe(child) for child in fuse.children)
    if len(set(names)) != len(names):
        raise ExportError(f"the fusion {fuse.name!r} contains a member twice: {', '.join(names)}; name each member once")
    return names
