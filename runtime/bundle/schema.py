"""Conversion between JSON values and frozen dataclasses, with type checks; the dataclass is the schema.

Supported field types: str, int, float, bool, Literal of strings, tuple[X, ...], Mapping[str, X], nested dataclasses.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def encode(value: Any) -> Any:
    """Return a JSON-ready copy: dataclass fields in definition order, mapping keys sorted, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Convert a JSON value to a Python type.

    Args:
        kind: type to convert to.
        value: value from a JSON document.
        where: path of the value, for messages.
        problems: list to which a message is appended for each mismatch.

    Returns:
        The converted value; valid only if no message was appended.
    """
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, problems)
    if get_origin(kind) is Literal:
        if not (isinstance(value, str) and value in get_args(kind)):
            problems.append(f"{where}: expected one of {', '.join(get_args(kind))}, found {value!r}")
        return value
    if get_origin(kind) is tuple:
        if not _expect(isinstance(value, list), "a list", value, where, problems):
            return ()
        return tuple(decode(get_args(kind)[0], item, f"{where}[{index}]", problems) for index, item in enumerate(value))
    if get_origin(kind) is Mapping:
        if not _expect(isinstance(value, dict), "an object", value, where, problems):
            return {}
        return {key: decode(get_args(kind)[1], item, f"{where}[{key!r}]", problems) for key, item in value.items()}
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        return float(value) if _expect(right, "a finite number", value, where, problems) else 0.0
    # bool is a subclass of int in Python, but `true` is not a number of layers
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _expect(right, {str: "a string", int: "an integer", bool: "true or false"}[kind], value, where, problems)
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _decode_dataclass(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not _expect(isinstance(value, dict), "an object", value, where, problems):
        return None
    prefix = f"{where}." if where else ""
    hints = get_type_hints(kind)
    problems.extend(f"{prefix}{name}: missing" for name in hints if name not in value)
    problems.extend(f"{prefix}{name}: unknown field" for name in value if name not in hints)
    present = {name: decode(hints[name], value[name], prefix + name, problems) for name in hints if name in value}
    return kind(**present) if len(present) == len(hints) else None


def _expect(right: bool, expected: str, value: Any, where: str, problems: list[str]) -> bool:
    if not right:
        found = repr(value)
        problems.append(f"{where}: expected {expected}, found {found if len(found) <= 80 else found[:77] + '...'}")
    return right
