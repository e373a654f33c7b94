"""Import of ONNX Runtime, in one place, so that a missing or broken installation gives one clear message."""

import importlib.util
import sys
from pathlib import Path

__all__ = ["ort"]

_INSTALL = (
    "install exactly one of `onnxruntime` and `onnxruntime-gpu`: `pip install 'adapterdrop-onnx[cpu]'` ([openvino], "
    "[tensorrt-rtx] and [webgpu] add a plug-in to it), or [gpu]; they and `onnxruntime-openvino` share one folder, so "
    "uninstall all of them before: `pip uninstall onnxruntime onnxruntime-gpu onnxruntime-openvino`"
)


def refuse_truncated(folder: Path) -> None:
    """Raise ImportError for a library of Linux whose end is missing, where the list of its sections is: it ends the process."""
    for path in folder.glob("onnxruntime_pybind11_state*"):
        with path.open("rb") as file:
            start, size = file.read(64), path.stat().st_size
        if start.startswith(b"\x7fELF\2\1") and size < (end := int.from_bytes(start[40:48], "little")):
            raise ImportError(f"{path}: {size:,} of {end:,} bytes", name="onnxruntime")


try:
    if "onnxruntime" not in sys.modules and (_spec := importlib.util.find_spec("onnxruntime")) and _spec.origin:
        refuse_truncated(Path(_spec.origin).parent / "capi")
    import onnxruntime as ort
except ImportError as error:
    if error.name == "onnxruntime" and isinstance(error, ModuleNotFoundError):
        raise ModuleNotFoundError(f"ONNX Runtime is not installed; {_INSTALL}", name="onnxruntime") from error
    if not str(error.name).startswith("onnxruntime"):  # a dependency of ONNX Runtime is missing: the original message names it
        raise
    # pip takes a damaged installation for a complete one
    raise ImportError(
        f"ONNX Runtime is installed incompletely ({error}): install the library that this names, or the same build again, such "
        "as `pip install --force-reinstall --no-deps onnxruntime`",
        name="onnxruntime",
    ) from error

# Uninstalling one of two distributions removes files that both own; the rest still imports, as an empty namespace package.
if not hasattr(ort, "InferenceSession"):
    raise ImportError(f"ONNX Runtime is installed incompletely (no InferenceSession); {_INSTALL}", name="onnxruntime")
