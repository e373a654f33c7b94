"""Import of ONNX Runtime, in one place, so that a missing or broken installation gives one clear message."""

__all__ = ["ort"]

_INSTALL = (
    "install exactly one of `onnxruntime` and `onnxruntime-gpu`: `pip install 'adapterdrop-onnx[cpu]'` ([openvino], "
    "[tensorrt-rtx] and [webgpu] add a plug-in to it), or [gpu]; they and `onnxruntime-openvino` share one folder, so "
    "uninstall all of them before: `pip uninstall onnxruntime onnxruntime-gpu onnxruntime-openvino`"
)

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":  # a dependency of ONNX Runtime is missing, and the original message names it
        raise
    raise ModuleNotFoundError(f"ONNX Runtime is not installed; {_INSTALL}", name="onnxruntime") from error

# Uninstalling one of two distributions removes files that both own; the rest still imports, as an empty namespace package.
if not hasattr(ort, "InferenceSession"):
    raise ImportError(f"ONNX Runtime is installed incompletely (no InferenceSession); {_INSTALL}", name="onnxruntime")
