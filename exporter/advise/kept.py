"""Files of measurements, which are replaced as a whole: an interrupted run leaves the last complete one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from exporter.advise.metrics import Array


def replace_text(path: Path, text: str) -> None:
    """Write a text to `path`."""
    scratch = path.with_suffix(".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def replace_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to `path`, as numpy.savez."""
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    scratch.replace(path)
