"""The first difference between the structures of two tasks, for messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.planning.padded_structure import resized

# Settings that explain others come first: another method has other settings too.
_FIRST = ("peft", "architecture", "union", "lora", "ia3", "vera", "saved", "composition", "use_dora", "dora", "rank", "r")
_EXPLANATIONS = {"scaling": "scaling (alpha / r; with rslora alpha / sqrt(r))"}
_Path = tuple[str, ...]


def first_difference(structure: str, others: Mapping[str, str]) -> str:
    """Describe in what a task differs from the task whose structure is closest.

    Sizes that zeros make equal are named only if nothing else differs.

    Args:
        structure: the structure of the task, as in `exporter.plan.Task`.
        others: task -> structure; at least one.

    Returns:
        A clause, such as "its adapter has r 4, that of the task 'sst2' has r 8".
    """
    found = {name: list(_differences(_named(resized(structure, other)), _named(other))) for name, other in others.items()}
    closest = min(found, key=lambda name: len(found[name]))
    differences = found[closest] or list(_differences(_named(structure), _named(others[closest])))
    if not differences:
        return f"it has the structure of the task {closest!r}"
    path, one, other = min(differences, key=lambda each: _rank(each[0]))
    part, setting = _words(path)
    return f"its {part} has {setting} {_value(one)}, that of the task {closest!r} has {setting} {_value(other)}"


def _named(structure: str) -> dict[str, Any]:
    """The structure with names for the elements of its lists."""
    content = json.loads(structure)
    setup, (head, outputs) = content["setup"], content["head"]
    if isinstance(setup, list):
        shape, configs, fusions, drop = setup
        named = {"composition": shape, "adapter": configs[0] if len(configs) == 1 else configs, "fusion": fusions, "drop": drop}
    else:
        # A single bottleneck or a PEFT adapter; the drop is in leave_out or in the modules.
        named = {"composition": 0, "adapter": setup, "fusion": []}
    return {**named, "head": {"structure": head, "outputs": outputs}}


def _differences(one: Any, other: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in one and key in other:
                yield from _differences(one[key], other[key], (*path, key))
            elif key not in ("drop", "leave_out"):  # bottlenecks have one, other methods the other
                yield (*path, key), one.get(key), other.get(key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True), 1):
            yield from _differences(*pair, (*path, str(number)))
    elif one != other:
        yield path, one, other


def _rank(path: _Path) -> int:
    return _FIRST.index(path[-1]) if path[-1] in _FIRST else len(_FIRST)


def _words(path: _Path) -> tuple[str, str]:
    """The part of the task, and the setting in it."""
    part, *rest = path
    rest = [key for key in rest if not key.isdigit()]
    if not rest:
        return ("task", part) if part in ("composition", "drop") else (part, "settings")
    setting = _EXPLANATIONS.get(rest[-1], rest[-1])
    return part, f"{setting} in {rest[-2]}" if len(rest) > 2 and rest[0] == "modules" else setting


def _value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
