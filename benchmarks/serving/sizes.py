"""Sizes of the models of the load test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A model with random weights and `seq_bn` tasks.

    Attributes:
        layers: layers of the BERT.
        hidden: its hidden size.
        drop: layers without adapters.
        tasks: tasks of the export, a multiple of three: they have 2, 3 and 4 labels in turn. More are added to slots.
        slots: slots of its graph with slots.
        files: tasks that are exported to a file each, a multiple of three as well. Further tasks use these files.
        objectives: latencies in ms that 95 % of the requests must keep.
        title: name in tables and plots.
    """

    layers: int
    hidden: int
    drop: int
    tasks: int
    slots: int
    files: int
    objectives: tuple[float, ...]
    title: str


SIZES = {
    "base": Size(12, 768, 5, 9, 64, 3, (50.0, 200.0), "BERT-base size"),
    "small": Size(6, 384, 3, 9, 64, 3, (50.0, 200.0), "six layers of hidden size 384"),
    "tiny": Size(2, 64, 1, 3, 2, 3, (200.0,), "two layers of hidden size 64"),
}
