"""Contender: one way to compute all tasks for a batch of texts, and the comparison of its outputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# One array of logits per task, in the tasks' order.
Outputs = list[npt.NDArray[Any]]
Feeds = dict[str, npt.NDArray[np.int64]]
# Computes one batch; only this is timed.
Call = Callable[[], Outputs]
# Prepares a Call for a batch; work such as copying inputs into tensors is not timed.
Bind = Callable[[Feeds], Call]
Family = Literal["eager", "compile", "files", "ours"]
# tf32: matrix products of fp32 graphs with inputs rounded to 10 bits, on NVIDIA GPUs.
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+@-]+){2,}")


class MismatchError(Exception):
    """The outputs of an fp32 contender differ from PyTorch task by task."""


class MissingError(Exception):
    """A contender does not exist here. The message is the reason; tables and plots show it."""


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to run.

    Attributes:
        bind: function that prepares the timed call for a batch.
        file_bytes: size of its files on disk; None for a contender without separate files.
        export_seconds: seconds of the export; None for a contender without separate files.
        bundle: exported folder that it runs, for counting operations; None for other contenders.
        floats: precision in which the floats of that folder's graph are computed.
    """

    bind: Bind
    file_bytes: int | None = None
    export_seconds: float | None = None
    bundle: Path | None = None
    floats: Precision = "fp32"


@dataclass(frozen=True)
class Contender:
    """One way to run all tasks.

    Attributes:
        key: name in the results.
        label: name in tables and plots.
        family: group of contenders; "eager" contenders are the references of the ratios.
        precision: "fp32" contenders must match PyTorch task by task; for others the difference is only reported.
        drop: number of lowest layers without adapters.
        prepare: function for the work that a service does once, at its start. An exception marks the contender as failed.
        compiles: whether the first call of every shape compiles, which may take minutes.
    """

    key: str
    label: str
    family: Family
    precision: Precision
    drop: int
    prepare: Callable[[], Prepared]
    compiles: bool = False


def missing(reason: str) -> Callable[[], Prepared]:
    """Return the `prepare` of a contender that does not exist here, so that the tables name the reason."""

    def prepare() -> Prepared:
        raise MissingError(reason)

    return prepare


def one_line(error: Exception) -> str:
    """Return the type and the first line of an error, without local paths; for a MissingError "missing: " and the reason."""
    if isinstance(error, MissingError):
        return f"missing: {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = _PATH.sub(lambda match: re.split(r"[\\/]", match[0])[-1], text)
    return text if len(text) <= 160 else text[:159] + "…"


def max_difference(found: Outputs, expected: Outputs) -> float:
    """Return max |found - expected| over all tasks; infinity if shapes differ or a number is NaN."""
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=False)):
        return float("inf")
    worst = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(found, expected, strict=True))
    return worst if np.isfinite(worst) else float("inf")
