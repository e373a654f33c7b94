"""GPUs of NVIDIA, from its driver."""

import subprocess
from pathlib import Path
from typing import Final

from runtime.ort.known_providers import CUDA, TENSORRT, TENSORRT_RTX, Provider

ON_NVIDIA: Final = (CUDA.key, TENSORRT.key, TENSORRT_RTX.key)
_SECONDS: Final = 10  # for nvidia-smi


def gpus() -> tuple[str, ...] | None:
    """Return the GPUs of the driver: ONNX Runtime lists CUDA without a GPU and without a driver. None if unknown."""
    command = ["nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None if Path("/dev/nvidia0").exists() else ()
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    return tuple(f"{index}: {name} (driver {driver})" for index, name, driver in rows)


def missing_gpu(provider: Provider, device: int) -> str | None:
    """Return the message for a GPU that the driver does not see, with those that it sees; None if it does, or is not needed."""
    if provider.key not in ON_NVIDIA or (found := gpus()) is None or device < len(found):
        return None
    if not found:
        return "the driver of NVIDIA is not installed, or sees no GPU"
    return f"the driver of NVIDIA sees no GPU {device} (cuda.device), only {', '.join(found)}"
