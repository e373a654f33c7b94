"""Saved graphs as sessions of ONNX Runtime, to be compared with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
        half: whether the graphs compute in fp16.
    """

    graph: Any
    atol: float
    routed: Any | None
    half: bool = False

    @classmethod
    def load(cls, graph: Path, atol: float, routed: Path | None = None, half: bool = False) -> Candidate:
        """Create sessions for a saved graph and its routed graph.

        Args:
            graph: the graph's file.
            atol: allowed |onnx - torch| relative to max(1, max |torch|).
            routed: the routed graph's file, or None.
            half: whether the graphs compute in fp16.

        Raises:
            VerificationError: ONNX Runtime cannot load a graph.
        """
        return cls(open_graph(graph), atol, None if routed is None else open_graph(routed, routed=True), half)

    def compared(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which rows of the inputs are compared: all, but in fp16 only rows with a token.

        In a row without any token, PyTorch's fp32 mask is so large that all scores of attention become equal. The largest mask
        of fp16 leaves them as they are where the provider adds it in fp32.
        """
        rows = len(next(iter(inputs.values())))
        mask = inputs.get("attention_mask")
        return np.ones(rows, bool) if mask is None or not self.half else np.asarray(mask.any(axis=1))


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
