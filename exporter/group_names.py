"""The names of groups in graphs: "tasks0" for tasks of one structure, "stem0" for what several groups have in common.

The names of values and weights of a branch begin with that of their group and a slash; those of the trunk do not.
"""

from __future__ import annotations

import re

__all__ = ["group_name", "group_of", "is_stem", "stem_name"]

_GROUP = re.compile(r"((?:tasks|stem)\d+)/")


def group_name(number: int) -> str:
    """Return the name of a group of tasks."""
    return f"tasks{number}"


def stem_name(number: int) -> str:
    """Return the name of a stem, by the number of the first of its groups."""
    return f"stem{number}"


def group_of(name: str | None) -> str | None:
    """Return the group or stem with which the name of a value or weight begins; None for the trunk."""
    match = _GROUP.match(name or "")
    return match[1] if match else None


def is_stem(group: str) -> bool:
    """Return whether the name is that of a stem."""
    return group.startswith("stem")
