"""Adapter setups: what a task activates, as one of the library's compositions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapters.composition import AdapterCompositionBlock, Average, Fuse, Stack, parse_composition

from exporter.errors import ExportError

_ONE_TASK = (Stack, Fuse, Average)
# Each child is a task of its own, which is what one export is made of.
_MANY_TASKS = ("Parallel", "MultiTask")


def parse_setup(task: str, setup: Any) -> Any:
    """`setup` as a composition: an adapter's name, or Stack, Fuse and Average nested as the library allows.

    Raises:
        ExportError: it is something else, or nested in a way that the library does not run.
    """
    try:
        parsed = setup if isinstance(setup, str) else parse_composition(setup)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the setup of the task {task!r} is no composition of adapters: {error}") from error
    if parsed is None or parsed == "":
        raise ExportError(f"the setup of the task {task!r} is empty: expected an adapter's name or a composition")
    for block in _blocks(parsed):
        kind = type(block).__name__
        if kind in _MANY_TASKS:
            raise ExportError(
                f"the setup of the task {task!r} is {describe(parsed)}: {kind} runs several tasks; name each as one of its own"
            )
        if not isinstance(block, _ONE_TASK):
            raise ExportError(
                f"the setup of the task {task!r} is {describe(parsed)}: {kind} cuts a batch or a text into parts of fixed "
                "size, which a graph for every shape cannot do; expected Stack, Fuse or Average"
            )
    # A stack of one is how the library stores a single adapter.
    return parsed[0] if isinstance(parsed, Stack) and len(parsed) == 1 else parsed


def split_tasks(setup: Any) -> list[Any]:
    """The setups of the tasks that a checkpoint's own setup runs: the children of Parallel, or the setup itself."""
    return list(setup.children) if type(setup).__name__ in _MANY_TASKS else [setup]


def task_name(setup: Any) -> str:
    """How the library calls the head of a setup: a fusion's name, else the last adapter."""
    if isinstance(setup, str):
        return setup
    last = setup.children[-1] if isinstance(setup, Stack) else setup
    return str(last.name) if isinstance(last, Fuse) else str(setup.last())


def adapters_of(setup: Any) -> tuple[str, ...]:
    """The adapters' names in their order, each once."""
    if isinstance(setup, str):
        return (setup,)
    return tuple(dict.fromkeys(name for child in setup.children for name in adapters_of(child)))


def fusions_of(setup: Any) -> tuple[str, ...]:
    """The names of the fusion layers, in order."""
    return tuple(str(fuse.name) for fuse in fuses_of(setup))


def names_of(setup: Any) -> tuple[str, ...]:
    """The adapters and fusion layers by name, in an order that is the same for tasks of one structure."""
    return (*adapters_of(setup), *fusions_of(setup))


def fuses_of(setup: Any) -> Iterator[Fuse]:
    """The Fuse blocks of a composition, in order."""
    return (block for block in _blocks(setup) if isinstance(block, Fuse))


def describe(setup: Any) -> str:
    """For people: Stack(en, Fuse(a, b))."""
    if isinstance(setup, str):
        return setup
    return f"{type(setup).__name__}({', '.join(describe(child) for child in setup.children)})"


def shape_of(setup: Any, roles: dict[str, int]) -> Any:
    """The setup as JSON, adapters as numbers: equal for two tasks that compose their adapters in the same way."""
    if isinstance(setup, str):
        return roles[setup]
    weights = list(setup.weights) if isinstance(setup, Average) else None
    return [type(setup).__name__, weights, [shape_of(child, roles) for child in setup.children]]


def _blocks(setup: Any) -> Iterator[AdapterCompositionBlock]:
    if isinstance(setup, AdapterCompositionBlock):
        yield setup
        for child in setup.children:
            yield from _blocks(child)
