"""Types of the arguments of `export` that nothing else looks at before the long stages."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from exporter.errors import ExportError

__all__ = ["check_files", "check_flags"]


def check_flags(flags: Mapping[str, object]) -> None:
    """Check that each flag is True or False: a text such as "no" would count as True.

    Args:
        flags: name of an argument -> its value.

    Raises:
        ExportError: a value is neither.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise ExportError(f"{name} must be True or False, found {value!r:.100}")


def check_files(calibration: object, evaluation: object) -> None:
    """Check that the files of texts are paths.

    Args:
        calibration: a path or None.
        evaluation: a path, a mapping from task to path, or None.

    Raises:
        ExportError: one is something else.
    """
    if not isinstance(calibration, str | os.PathLike | None):
        raise ExportError(f"calibration must be the path of a file, found {calibration!r:.100}")
    files = evaluation.values() if isinstance(evaluation, Mapping) else [evaluation]
    if not all(isinstance(file, str | os.PathLike | None) for file in files):
        raise ExportError(f"evaluation must be the path of a file, or a mapping from task to path, found {evaluation!r:.100}")
