"""Import of ONNX Runtime, in one place, so that a missing or broken installation gives one clear message."""

__all__ = ["ort"]

_INSTALL = (
    "install exactly one of `onnxruntime` and `onnxruntime-gpu`: `pip install 'adapterdrop-onnx[cpu]'` ([openvino], "
    "[tensorrt-rtx] and [webgpu] add a plug-in to it), or [gpu]; they and `onnxruntime-openvino` share one folder, so "
    "uninstall all of them before: `pip uninstall onnxruntime onnxruntime-gpu onnxruntime-openvino`"
)

try:
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
