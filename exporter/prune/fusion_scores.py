"""Scores of fusion members by layer, and the choice of the members to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import ExportError


@dataclass(frozen=True)
class LayerScores:
    """One layer of a fusion.

    Attributes:
        layer: counted from 0; encoder layers come before decoder layers.
        members: the members with an adapter in this layer, in the fusion's order.
        scores: one per member, the mean over its locations.
        locations: location -> scores, for each location of a fusion block within the layer ("mh_adapter" after the
            attention, "output_adapter" after the feed-forward block); empty if scores were given.
    """

    layer: int
    members: tuple[str, ...]
    scores: tuple[float, ...]
    locations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionTable:
    """The importance of each member of a fusion, by layer.

    Measured scores are the fusion's attention, averaged over real tokens; the scores of a layer add up to 1. If a layer has the
    fusion at several locations, their scores are averaged: a member is kept or removed at all locations of a layer.

    Attributes:
        task: the task whose setup contains the fusion.
        fusion: the name of the fusion layer.
        members: in the fusion's order; a stack is written as its composition, "Stack(a, b)".
        layers: the layers in which the fusion runs, in ascending order.
        measured: whether the scores were measured on texts; otherwise the user gave them.
    """

    task: str
    fusion: str
    members: tuple[str, ...]
    layers: tuple[LayerScores, ...]
    measured: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        rows = [
            {
                "layer": row.layer,
                "scores": dict(zip(row.members, row.scores, strict=True)),
                "locations": {name: dict(zip(row.members, values, strict=True)) for name, values in row.locations.items()},
            }
            for row in self.layers
        ]
        return {
            **{name: getattr(self, name) for name in ("task", "fusion", "measured")},
            "members": list(self.members),
            "layers": rows,
        }


def choose(table: AttentionTable, keep: int) -> dict[int, tuple[str, ...]]:
    """Choose the `keep` members with the highest scores in each layer.

    The earlier member wins a tie. A layer with at most `keep` members keeps all of them.

    Returns:
        Layer -> members, in the fusion's order.

    Raises:
        ExportError: `keep` is not an integer from 1 to the number of members.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= len(table.members):
        raise ExportError(
            f"the number of members to keep must be from 1 to {len(table.members)}, the number of members of the fusion "
            f"{table.fusion!r}; found {keep!r}"
        )
    kept = {}
    for row in table.layers:
        ranked = sorted(range(len(row.members)), key=lambda index: (-row.scores[index], index))
        kept[row.layer] = tuple(row.members[index] for index in sorted(ranked[:keep]))
    return kept
