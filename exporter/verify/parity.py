"""Parity rows: the difference between the logits of a graph and of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Task
from runtime.bundle import ParityRow

NOTHING_WRITTEN = "the exported graph differs from PyTorch; nothing was written:\n"


@contextmanager
def explain_another_trunk() -> Iterator[None]:
    """Add the likely cause to a difference from PyTorch: the model of new tasks has another trunk than the bundle."""
    try:
        yield
    except VerificationError as error:
        if not str(error).startswith(NOTHING_WRITTEN):
            raise
        raise VerificationError(
            f"{error}\n  new tasks are computed on the trunk of the bundle: pass the model, with the same weights, that the "
            "bundle was exported from"
        ) from error


def tolerance_ratio(row: ParityRow) -> float:
    """Return the difference as a multiple of the tolerance; infinite if it is NaN."""
    return row.max_abs_diff / row.tolerance if row.max_abs_diff == row.max_abs_diff else np.inf


def parity_row(task: Task, expected: np.ndarray, found: np.ndarray, shape: tuple[int, int], atol: float) -> ParityRow:
    """Compare one output of a graph with PyTorch's.

    Args:
        task: the task of the output.
        expected: PyTorch's output.
        found: the graph's output.
        shape: batch and sequence of the inputs.
        atol: tolerance relative to max(1, max |expected|).

    Raises:
        VerificationError: the shapes or types differ.
    """
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise VerificationError(
            f"{NOTHING_WRITTEN}  {task.name} at {shape[0]}x{shape[1]}: expected "
            f"{expected.dtype}{list(expected.shape)}, found {found.dtype}{list(found.shape)}"
        )
    difference = float(np.abs(found - expected).max(initial=0.0))
    return ParityRow(
        task=task.name,
        batch=shape[0],
        sequence=shape[1],
        max_abs_diff=difference,
        max_rel_diff=difference / scale,
        argmax_agreement=float(np.mean(found.argmax(-1) == expected.argmax(-1))),
        tolerance=atol * scale,
    )
