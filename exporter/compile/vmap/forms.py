"""The forms that the branch has of a value of the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = ["Constant", "Folded", "Form", "PerTask", "Stacked"]


@dataclass(frozen=True)
class Constant:
    """One array per task, computed from task weights and constants only and therefore known now."""

    arrays: Sequence[np.ndarray]


@dataclass(frozen=True)
class Folded:
    """The task in the batch axis: [batch, ...] of the template is [T x batch, ...] or [rows, ...] here.

    A folded value without a batch axis holds lengths, those at that batch.
    """

    value: ir.Value


@dataclass(frozen=True)
class Stacked:
    """The same numbers as [T or rows, n, features].

    Attributes:
        value: of that shape.
        widths: how many of the columns each task has, where that differs; the columns beyond mean nothing.
    """

    value: ir.Value
    widths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PerTask:
    """One value per task."""

    values: Sequence[ir.Value]


Form = Constant | Folded | Stacked | PerTask
