"""The exit status of a separate benchmark: what a user can mend is one line without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.contender import MismatchError
from exporter.errors import ExportError
from runtime import AdapterDropError


def exit_status(work: Callable[[], int | None]) -> int:
    """Run a benchmark.

    Args:
        work: the benchmark; what it returns is the exit status, None is 0.

    Returns:
        The exit status; 1 if outputs differ, 2 if a file, bundle, provider or model is not as expected.
    """
    try:
        return work() or 0
    except MismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (AdapterDropError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
