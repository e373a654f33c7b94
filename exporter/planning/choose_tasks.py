"""Selection of the tasks to export: those requested, or those of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporter.errors import ExportError
from exporter.models.compositions import adapters_of, parse_setup, split_tasks, task_name
from exporter.models.library import library_of


def choose_setups(model: Any, wanted: Sequence[str] | Mapping[str, Any] | None, saved: Any) -> dict[str, Any]:
    """Return the setup of each task to export.

    Args:
        model: a live model with adapters.
        wanted: adapter or fusion names, or task name -> setup; None for the default.
        saved: the checkpoint's setup, which is the default; None for all adapters and fusions with a head.

    Raises:
        ExportError: the model has no adapters, an adapter is unknown, or a task cannot be exported.
    """
    library = library_of(model)
    adapters, fusions = library.adapters_of(model), library.compositions_of(model)
    if not adapters:
        raise ExportError("the model has no adapters: add or load one (model.load_adapter), or choose another --model")
    if wanted is None:
        setups = _default(model, adapters, fusions, saved)
    elif isinstance(wanted, Mapping):
        setups = {name: fusions.get(setup, setup) if isinstance(setup, str) else setup for name, setup in wanted.items()}
    elif isinstance(wanted, str) or not isinstance(wanted, Sequence):
        one = f": write [{wanted!r}] for a single one" if isinstance(wanted, str) else ""
        raise ExportError(
            f"tasks must be a list of adapter names or a mapping from task names to setups, found {wanted!r}{one}"
        )
    else:
        setups = _named(wanted, fusions)
    if not setups:
        raise ExportError("tasks is empty: expected at least one adapter name, or omit tasks to export all of them")
    parsed = {}
    for name, setup in setups.items():
        if not isinstance(name, str) or not name:
            raise ExportError(f"a task must have a name, found {name!r}")
        parsed[name] = parse_setup(name, setup)
        for adapter in adapters_of(parsed[name]):
            if adapter not in adapters:
                raise ExportError(f"unknown adapter {adapter!r}; adapters: {', '.join(adapters)}")
    return parsed


def _named(wanted: Sequence[str], fusions: Mapping[str, Any]) -> dict[str, Any]:
    for name in wanted:
        if not isinstance(name, str):
            raise ExportError(
                f"a task must be an adapter's name, found {name!r}: give compositions as a mapping, {{'name': composition}}"
            )
        if list(wanted).count(name) > 1:
            raise ExportError(f"tasks contains {name!r} twice: name each task once")
    return {name: fusions.get(name, name) for name in wanted}


def _default(model: Any, adapters: list[str], fusions: Mapping[str, Any], saved: Any) -> dict[str, Any]:
    if saved is not None:
        setups = split_tasks(saved)
        names = [task_name(setup) for setup in setups]
        if len(set(names)) != len(names):
            raise ExportError(
                f"the checkpoint's setup has several tasks with one name ({', '.join(names)}): name them with tasks="
            )
        return dict(zip(names, setups, strict=True))
    if not hasattr(model, "heads"):
        return {name: name for name in adapters}
    heads = list(model.heads)
    known = {**{name: name for name in adapters}, **fusions}
    # A member of a fusion needs no head.
    members = {name for fusion in fusions.values() for name in adapters_of(fusion)}
    headless = [name for name in known if name not in heads and name not in members]
    problems = [f"the {_kind(name, fusions)} {name!r} has no prediction head of the same name" for name in headless]
    problems += [f"the head {name!r} has no adapter of the same name" for name in heads if name not in known]
    if problems:
        remedy = (
            "add the missing part, delete the other, select the tasks to export (--tasks a,b), or pair a head with an adapter "
            f"of another name (--tasks {_pair(headless, heads, known)}; in Python tasks={{head: adapter}})"
        )
        raise ExportError("; ".join(problems) + ": " + remedy)
    return {name: setup for name, setup in known.items() if name in heads}


def _pair(headless: Sequence[str], heads: Sequence[str], known: Mapping[str, Any]) -> str:
    """HEAD=ADAPTER, with the names that are left over if there are some."""
    alone = [name for name in heads if name not in known]
    return f"{alone[0]}={headless[0]}" if alone and headless else "HEAD=ADAPTER"


def _kind(name: str, fusions: Mapping[str, Any]) -> str:
    return "fusion" if name in fusions else "adapter"


def saved_heads(tasks: Mapping[str, Any], heads: Any) -> dict[str, str]:
    """Return task -> head name from the head setup saved with the checkpoint; empty if it does not fit the tasks."""
    names = [heads] if isinstance(heads, str) else list(heads or ())
    fits = len(names) == len(tasks) and all(isinstance(name, str) for name in names)
    return dict(zip(tasks, names, strict=True)) if fits else {}
