"""Devices that drivers see, for providers whose devices ONNX Runtime does not list."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.known_providers import CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider

ON_NVIDIA: Final = (CUDA.key, TENSORRT.key, TENSORRT_RTX.key)
_SECONDS: Final = 10  # for nvidia-smi
_GPU_FILES: Final = "nvidia[0-9]*"  # a container may have some
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_COMBINED: Final = ("AUTO", "HETERO", "MULTI", "BATCH")  # names of OpenVINO that stand for several devices


def gpus() -> tuple[str, ...] | None:
    """Return the GPUs of NVIDIA's driver that this process may use, by their index in CUDA. None if unknown.

    ONNX Runtime lists CUDA without a GPU and without a driver, and nvidia-smi also lists GPUs that CUDA_VISIBLE_DEVICES hides.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None if any(Path("/dev").glob(_GPU_FILES)) else ()
    rows = [row for line in output.splitlines() if len(row := [part.strip() for part in line.split(",")]) == 4]
    if (names := os.environ.get(_VISIBLE)) is not None:
        if "MIG-" in names:  # parts of a GPU, which this list does not have
            return None
        rows = _visible(rows, names)
    return tuple(f"{index}: {name} (driver {driver})" for index, (_, _, name, driver) in enumerate(rows))


def _visible(rows: list[list[str]], names: str) -> list[list[str]]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names by index or start of the UUID, up to the first that is not there."""
    found: list[list[str]] = []
    for name in map(str.strip, names.split(",")):
        own = [row for row in rows if name and (row[0] == name or (name.startswith("GPU-") and row[1].startswith(name)))]
        if len(own) != 1 or own[0] in found:
            break
        found += own
    return found


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
    visible = f" ({_VISIBLE}={names!r})" if (names := os.environ.get(_VISIBLE)) is not None else ""
    if not seen:
        return f"the driver of NVIDIA is not installed, or sees no GPU{visible}"
    return f"the driver of NVIDIA sees no GPU {device} (cuda.device), only {', '.join(seen)}{visible}"
