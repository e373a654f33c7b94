"""Files of installed libraries: whether they are complete, and why the system does not load one."""

import ctypes
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from runtime.import_ort import ort
from runtime.ort.known_providers import CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider

# Providers that ONNX Runtime contains as a separate library -> a part of its name
_PARTS = {CUDA.key: "cuda", TENSORRT.key: "tensorrt", OPENVINO.key: "openvino", TENSORRT_RTX.key: "nv_tensorrt_rtx"}


def truncated_files(package: str) -> list[str]:
    """Return the files of a distribution that are shorter than its installer wrote, or missing.

    The system maps a library into memory without a look at its size, and the process ends with SIGBUS at the first access
    beyond the end.
    """
    return list(_truncated_files(package))


def _truncated_files(package: str) -> Iterator[str]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.size is None:  # RECORD has no size of itself and of bytecode
            continue
        path = Path(str(file.locate()))
        found = path.stat().st_size if path.exists() else 0
        if found < file.size:
            yield f"{file.name} ({found:,} of {file.size:,} bytes)"


def load_failure(provider: Provider) -> str | None:
    """Return why the system does not load the library of a provider in ONNX Runtime, which only its log says.

    Returns:
        The message of the system; None if it loads, or the provider has no separate library.
    """
    part = _PARTS.get(provider.key)
    if part is None or provider.is_plugin:
        return None
    for name in (f"libonnxruntime_providers_{part}.so", f"onnxruntime_providers_{part}.dll"):
        if (path := Path(ort.__file__).parent / "capi" / name).exists():
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                return str(error)
    return None
