"""Registration of a plug-in by another process: a damaged library of the right size is found by nothing but its execution."""

import signal
import subprocess
import sys
from typing import Final

from runtime.ort.known_providers import Provider

_REGISTER: Final = """
import sys
sys.path[:] = sys.argv[2:]
from runtime.ort import known_providers, plugins
plugins.register(known_providers.PLUGINS[sys.argv[1]])
"""
_SECONDS: Final = 60
_LARGEST_STATUS: Final = 255  # Windows has larger ones for exceptions of the processor


def ended_process(plugin: Provider) -> str | None:
    """Return how the process ends that registers a plug-in, if its library ends that process; otherwise None."""
    command = [sys.executable, "-c", _REGISTER, plugin.name, *sys.path]
    try:
        status = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    if status < 0:
        return signal.Signals(-status).name
    return f"status {status:#x}" if status > _LARGEST_STATUS else None
