"""Description of the GPU of a measurement, from nvidia-smi."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

# Field of nvidia-smi -> name in the results.
_TEXTS = {"name": "name", "driver_version": "driver"}
_NUMBERS = {
    "memory.total": "memory_mib",
    "memory.used": "memory_used_mib",
    "clocks.sm": "sm_mhz",
    "clocks.max.sm": "sm_max_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
    "utilization.gpu": "utilization_percent",
}

Gpu = Mapping[str, str | float | None]


def current_gpu() -> Gpu | None:
    """Return name, driver, memory, clocks and power of the first GPU that CUDA uses in this process, as they are now.

    Returns:
        Name in the results -> text or number, None for a number that the driver does not give; None without nvidia-smi,
        or if it does not know this GPU.
    """
    fields = [*_TEXTS, *_NUMBERS]
    # An index or a UUID; nvidia-smi itself numbers all GPUs of the machine
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    command = ["nvidia-smi", f"--id={first}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in text.strip().split(",")]
    if len(values) != len(fields):
        return None
    found: dict[str, str | float | None] = {}
    for field, value in zip(fields, values, strict=True):
        found[_TEXTS.get(field) or _NUMBERS[field]] = value if field in _TEXTS else _number(value)
    return found


def sentence(gpu: Gpu) -> str:
    """Return the most important fields in one line."""

    def shown(name: str) -> str:
        return "unknown" if gpu.get(name) is None else f"{gpu[name]:g}"

    return (
        f"{gpu['name']}, {shown('memory_mib')} MiB, driver {gpu['driver']}; as found: SM clock {shown('sm_mhz')} of "
        f"{shown('sm_max_mhz')} MHz, memory clock {shown('memory_mhz')} MHz, {shown('power_w')} of {shown('power_limit_w')} W"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A] or [Not Supported]
        return None
