"""Peak of the memory of this process."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import psutil

_RESET = "5"  # of Linux's clear_refs: the peak is that of now


def reset_peak() -> None:
    """Forget the peak so far, where the system can: what a candidate needs to load is not what it needs to serve."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET, encoding="ascii")


def peak_mb() -> float:
    """Return the peak of the resident memory in MB since `reset_peak`, files mapped into memory included."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))):
        return int(found[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource  # POSIX only

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6
