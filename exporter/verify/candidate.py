"""Saved graphs as sessions of ONNX Runtime, to be compared with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from exporter.errors import VerificationError
from runtime.ort.empty_tensors import safe_arguments


@dataclass(frozen=True, eq=False)
class Candidate:
    """A loaded graph to be compared with PyTorch.

    Attributes:
        graph: the ONNX Runtime session of the graph of all tasks.
        atol: allowed |onnx - torch| relative to max(1, max |torch|).
        routed: the session of the routed graph of the same tasks, or None.
    """

    graph: Any
    atol: float
    routed: Any | None

    @classmethod
    def load(cls, graph: Path, atol: float, routed: Path | None = None) -> Candidate:
        """Create sessions for a saved graph and its routed graph.

        Args:
            graph: the graph's file.
            atol: allowed |onnx - torch| relative to max(1, max |torch|).
            routed: the routed graph's file, or None.

        Raises:
            VerificationError: ONNX Runtime cannot load a graph.
        """
        return cls(open_graph(graph), atol, None if routed is None else open_graph(routed, routed=True))


def open_graph(graph: Path, routed: bool = False) -> Any:
    """Create a session of ONNX Runtime for a saved graph.

    Args:
        graph: the graph's file.
        routed: whether it is a routed graph.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """
    arguments = safe_arguments() if routed else {}
    try:
        return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"], **arguments)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise VerificationError(f"ONNX Runtime cannot load the exported graph; nothing was written: {error}") from error
