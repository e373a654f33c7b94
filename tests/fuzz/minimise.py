"""Removes what a find does not need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.fuzz.case import Case

_MOST = 60  # cases that are tried


def minimise(case: Case, is_same: Callable[[Case], bool]) -> Case:
    """Return the smallest case that was found to have the same fault: fewer changes, fewer arguments, shorter lists.

    Args:
        case: the find.
        is_same: runs a case and says whether it has the same fault.
    """
    tried = 0
    smaller = True
    while smaller and tried < _MOST:
        smaller = False
        for candidate in _smaller(case):
            tried += 1
            if tried >= _MOST:
                break
            if is_same(candidate):
                case, smaller = candidate, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Smaller cases, the smallest first."""
    count = len(case.edits)
    size = count
    while size:
        for start in range(0, count, size):
            yield replace(case, edits=case.edits[:start] + case.edits[start + size :])
        size //= 2
    for key, value in case.call.items():
        yield replace(case, call={name: each for name, each in case.call.items() if name != key})
        for shorter in _shorter(value):
            yield replace(case, call={**case.call, key: shorter})


def _shorter(value: Any) -> Iterator[Any]:
    """Lists and objects with fewer elements."""
    if isinstance(value, list):
        size = len(value) // 2
        while size:
            for start in range(0, len(value), size):
                yield value[:start] + value[start + size :]
            size //= 2
        for index, each in enumerate(value):
            yield from ([*value[:index], shorter, *value[index + 1 :]] for shorter in _shorter(each))
    elif isinstance(value, dict) and not any(key.startswith("$") for key in value):
        for key in value:
            yield {name: each for name, each in value.items() if name != key}
    elif isinstance(value, dict) and isinstance(value.get("$join"), list):
        yield from value["$join"]
        yield from ({"$join": shorter} for shorter in _shorter(value["$join"]))
