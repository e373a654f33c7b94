"""The load of other processes while latencies are measured, which mean little on a machine that is busy otherwise."""

from __future__ import annotations

import time

import psutil

_IDLE = ("idle", "iowait", "guest", "guest_nice")  # guests are counted in user and nice


class OtherProcesses:
    """Measures the cores that other processes use, from its creation on."""

    def __init__(self) -> None:
        """Start."""
        self._started, self._busy, self._own = time.monotonic(), _busy(), time.process_time()

    def cores(self) -> float:
        """Return the cores that other processes have used on average."""
        seconds = max(1e-3, time.monotonic() - self._started)
        return max(0.0, (_busy() - self._busy - self.own_seconds()) / seconds)

    def own_seconds(self) -> float:
        """Return the CPU time of this process since the creation, of all its threads."""
        return time.process_time() - self._own


def _busy() -> float:
    """Seconds in which a core was not idle, of all cores together."""
    times = psutil.cpu_times()
    return float(sum(value for name, value in times._asdict().items() if name not in _IDLE))
