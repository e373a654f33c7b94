"""What a variant is: one way to answer all tasks for one batch of texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# One array of logits per task, in the tasks' order.
Answers = list[npt.NDArray[Any]]
Feeds = dict[str, npt.NDArray[np.int64]]
# Answers one batch; this is what is timed.
Call = Callable[[], Answers]
# Turns a batch into a Call: what a service does once, such as copying inputs into tensors, is not timed.
Bind = Callable[[Feeds], Call]
Family = Literal["eager", "compile", "files", "ours"]
Precision = Literal["fp32", "bf16", "int8"]

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+@-]+){2,}")


class MismatchError(Exception):
    """A variant in fp32 gives other numbers than PyTorch task by task. Nothing was written."""


@dataclass(frozen=True)
class Prepared:
    """A variant, ready to run.

    Attributes:
        bind: makes the call that is timed.
        file_bytes: bytes of its files on disk; None where it has none of its own.
        export_seconds: how long it took to write them.
        bundle: the exported folder that it runs, whose operations can be counted; None for another way.
        floats: what the floats of that folder's graph are computed in.
    """

    bind: Bind
    file_bytes: int | None = None
    export_seconds: float | None = None
    bundle: Path | None = None
    floats: Precision = "fp32"


@dataclass(frozen=True)
class Variant:
    """One way to run all tasks.

    Attributes:
        key: its name in the results.
        label: its name for people.
        family: "eager" variants are what the others are compared with.
        precision: "fp32" variants must give the numbers of PyTorch task by task; others only report the difference.
        drop: adapters are left out of the layers 0 to drop - 1.
        prepare: does all that a service does once, at its start. May raise anything: the variant then counts as failed.
    """

    key: str
    label: str
    family: Family
    precision: Precision
    drop: int
    prepare: Callable[[], Prepared]


def one_line(error: Exception) -> str:
    """The first line of what went wrong, without paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = _PATH.sub(lambda match: re.split(r"[\\/]", match[0])[-1], text)
    return text if len(text) <= 160 else text[:159] + "…"


def max_difference(found: Answers, expected: Answers) -> float:
    """max |found - expected| over all tasks; infinite where shapes differ or a number is NaN."""
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=False)):
        return float("inf")
    worst = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(found, expected, strict=True))
    return worst if np.isfinite(worst) else float("inf")
