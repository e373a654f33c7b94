"""Description of the machine and the software of a measurement, without host name, user name or paths."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "adapters", "onnxruntime", "onnxruntime-openvino")


def description() -> dict[str, Any]:
    """Return the date, the machine and the versions of packages as JSON types."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    installed = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if name in installed}
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **versions},
    }
