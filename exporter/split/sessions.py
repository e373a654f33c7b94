"""Sessions of a whole graph and of its parts, which are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter.verify.candidate import open_graph
from runtime.bundle.split_entry import split_files

__all__ = ["RowGraphs", "RowSessions", "SplitSessions", "read_inputs", "relative_difference"]


@dataclass(frozen=True)
class RowGraphs:
    """The counterpart of the branches of a routed graph, or of one with slots, in the comparison.

    Attributes:
        whole: file of the whole graph.
        tasks: number of its tasks, or of the slots of all groups.
        weights: input -> the weights of all slots, those of the bundle's tasks; empty for a routed graph.
    """

    whole: str
    tasks: int
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RowSessions:
    """Sessions of a routed graph, or of one with slots.

    Attributes:
        whole: the whole graph.
        branches: the graph of its branches.
        given: its tasks and weights.
    """

    whole: Any
    branches: Any
    given: RowGraphs


@dataclass(frozen=True, eq=False)
class SplitSessions:
    """Sessions of the whole graph and of its parts.

    Attributes:
        whole: the graph of all tasks.
        trunk: the graph of the trunk.
        branches: the graph of the branches.
        branches_file: file name of the latter, for messages.
        rows: file of the branches of a routed graph or of one with slots -> the graphs.
    """

    whole: Any
    trunk: Any
    branches: Any
    branches_file: str
    rows: Mapping[str, RowSessions]

    @classmethod
    def load(cls, folder: Path, model: str, rows: Mapping[str, RowGraphs]) -> SplitSessions:
        """Open the sessions.

        Args:
            folder: the folder of the graphs.
            model: the file of the whole graph.
            rows: file of the branches of a routed graph or of one with slots -> its counterpart.

        Raises:
            VerificationError: ONNX Runtime cannot load a graph.
        """
        trunk, branches = split_files(model)
        pairs = {}
        for part, each in rows.items():
            first, second = (open_graph(folder / name, routed=True) for name in (each.whole, part))
            pairs[part] = RowSessions(first, second, each)
        whole, first, second = (open_graph(folder / name) for name in (model, trunk, branches))
        return cls(whole, first, second, branches, pairs)


def read_inputs(session: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return those of the values that a graph reads.

    Args:
        session: the session of the graph.
        values: input -> array, also of inputs that the graph does not have.
    """
    return {value.name: values[value.name] for value in session.get_inputs()}


def relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference where `expected` is finite, relative to max(1, max |expected|)."""
    finite = np.isfinite(expected)
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    return float(np.abs(expected[finite].astype(np.float64) - found[finite]).max(initial=0.0)) / scale
