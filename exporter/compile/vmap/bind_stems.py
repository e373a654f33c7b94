"""The graphs of a plan before they are joined: the stems of groups, and what is left of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import onnx_ir as ir

from exporter.compile.vmap.stem_rows import StemRows, stem_output
from exporter.compile.vmap.stems import divide_groups
from exporter.group_names import group_name, stem_name
from exporter.traced_group import TracedGroup

__all__ = ["Bind", "Binding", "bind_stems"]


class Bind(Protocol):
    """Makes the pass that binds the tasks of a group to its template."""

    def __call__(self, group: TracedGroup, name: str, *, is_stem: bool = False, stem: StemRows | None = None) -> Binding:
        """Return the binding: `name` is the first part of all names in the branch, the rest is as of the pass."""


@dataclass(frozen=True)
class Binding:
    """A template, and the pass that makes it the graph of several tasks.

    Attributes:
        name: name of the group or stem.
        model: the template.
        step: the pass.
    """

    name: str
    model: ir.Model
    step: ir.passes.InPlacePass


def bind_stems(groups: Sequence[TracedGroup], batch: str, bind: Bind) -> list[Binding]:
    """Return the stems, and then the groups in their order.

    Args:
        groups: clean groups, whose templates are changed in place.
        batch: the name of the batch axis.
        bind: makes the passes.
    """
    stems: list[Binding] = []
    rest: dict[int, Binding] = {}
    for divided in divide_groups(groups, batch):
        rows: StemRows | None = None
        if divided.stem is not None:
            name = stem_name(next(iter(divided.members)))
            stems.append(bind(divided.stem, name, is_stem=True))
            rows = StemRows(stem_output(name), 0, divided.stem.tasks)
        for number, group in divided.members.items():
            rest[number] = bind(group, group_name(number), stem=rows)
            rows = None if rows is None else replace(rows, first=rows.first + len(group.tasks))
    return [*stems, *(rest[number] for number in sorted(rest))]
