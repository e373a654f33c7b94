"""Devices that drivers see, for providers whose devices ONNX Runtime does not list."""

import re
import subprocess
from pathlib import Path
from typing import Final

from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.known_providers import CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider

ON_NVIDIA: Final = (CUDA.key, TENSORRT.key, TENSORRT_RTX.key)
_SECONDS: Final = 10  # for nvidia-smi
_COMBINED: Final = ("AUTO", "HETERO", "MULTI", "BATCH")  # names of OpenVINO that stand for several devices


def gpus() -> tuple[str, ...] | None:
    """Return the GPUs of NVIDIA's driver: ONNX Runtime lists CUDA without a GPU and without a driver. None if unknown."""
    command = ["nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None if Path("/dev/nvidia0").exists() else ()
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    return tuple(f"{index}: {name} (driver {driver})" for index, name, driver in rows)


def openvino_devices() -> tuple[str, ...] | None:
    """Return the devices of the provider that onnxruntime-openvino contains; None if unknown."""
    ids = getattr(getattr(ort.capi, "_pybind_state", None), "get_available_openvino_device_ids", None)
    return None if ids is None else tuple(ids())


def missing_device(provider: Provider, options: Options) -> str | None:
    """Return the message for a device of the options that is not there, with those that are; None if it is."""
    if provider == OPENVINO and (found := openvino_devices()) is not None:
        # GPU is the first of GPU.0 and GPU.1, and a device without a number is the only one of its kind
        kinds = {name.partition(".")[0] for name in found}
        known = {*_COMBINED, *found, *kinds, *(f"{name}.0" for name in found if "." not in name)}
        wanted = [name for name in re.split("[:,]", options.openvino.device) if name not in known]
        return f"OpenVINO sees no device {', '.join(wanted)} (openvino.device), only {', '.join(found)}" if wanted else None
    if provider.key not in ON_NVIDIA or (seen := gpus()) is None or (device := options.cuda.device) < len(seen):
        return None
    if not seen:
        return "the driver of NVIDIA is not installed, or sees no GPU"
    return f"the driver of NVIDIA sees no GPU {device} (cuda.device), only {', '.join(seen)}"
