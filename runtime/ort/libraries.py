"""Files of installed libraries: whether they are complete, and why the system does not load one."""

import ctypes
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.import_ort import ort
from runtime.ort.known_providers import CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider

_LIBRARY: Final = re.compile(r"\.(so|dll|pyd|dylib)\b")
# Providers that ONNX Runtime contains as a separate library -> a part of its name
PARTS: Final = {CUDA.key: "cuda", TENSORRT.key: "tensorrt", OPENVINO.key: "openvino", TENSORRT_RTX.key: "nv_tensorrt_rtx"}


def is_library(name: str) -> bool:
    """Return whether a file is a library by its name, such as libx.so.1."""
    return _LIBRARY.search(name) is not None


def truncated_libraries(package: str) -> list[str]:
    """Return the libraries of a distribution that are shorter than its installer wrote, or missing.

    The system maps a library into memory without a look at its size, and the process ends with SIGBUS at the first access
    beyond the end.
    """
    return list(_truncated_libraries(package))


def _truncated_libraries(package: str) -> Iterator[str]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.size is None or not is_library(file.name):  # RECORD has no size of some files, such as itself
            continue
        path = Path(str(file.locate()))
        found = path.stat().st_size if path.exists() else 0
        if found < file.size:
            yield f"{file.name} ({found:,} of {file.size:,} bytes)"


def library_failure(provider: Provider) -> str | None:
    """Return why the system does not load the separate library of a provider, which only ONNX Runtime's log says; or None."""
    part = PARTS.get(provider.key)
    if part is None or provider.is_plugin:
        return None
    for name in (f"libonnxruntime_providers_{part}.so", f"onnxruntime_providers_{part}.dll"):
        if (path := Path(ort.__file__).parent / "capi" / name).exists():
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                return str(error)
    return None
