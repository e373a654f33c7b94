"""The forms in which the branch has a value of the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = ["Constant", "Folded", "Form", "Padded", "PerRow", "PerTask", "Stacked"]


@dataclass(frozen=True)
class Constant:
    """One array per task, computed from task weights and constants only and therefore known at export."""

    arrays: Sequence[np.ndarray]


@dataclass(frozen=True)
class Folded:
    """The task folded into the batch axis: [batch, ...] of the template becomes [T x batch, ...] or [rows, ...].

    A folded value without a batch axis holds lengths at the branch's batch.
    """

    value: ir.Value


@dataclass(frozen=True)
class Stacked:
    """The same numbers as [T or rows, n, features].

    Attributes:
        value: the numbers in that shape.
        widths: the number of valid columns per task if it differs between tasks; further columns have no meaning.
    """

    value: ir.Value
    widths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Padded:
    """A folded value whose label counts differ between tasks.

    Attributes:
        value: the value, with the largest label count along `axis`.
        axis: the axis of the labels.
        widths: the number of valid columns per task along it; further columns have no meaning.
    """

    value: ir.Value
    axis: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class PerTask:
    """One value per task."""

    values: Sequence[ir.Value]


@dataclass(frozen=True)
class PerRow:
    """A value that the template has once for all rows, with a batch axis of length 1 or none.

    It is [rows, ...], with or without the template's batch axis next, or as in the template if the rows are those of one task.
    """

    value: ir.Value


Form = Constant | Folded | Stacked | Padded | PerTask | PerRow
