"""The one place that imports ONNX Runtime, so that a missing or broken installation is explained in one message."""

__all__ = ["ort"]

_INSTALL = (
    "install exactly one of `onnxruntime`, `onnxruntime-gpu`, `onnxruntime-openvino`: `pip install 'adapterdrop-onnx[cpu]'` "
    "(or [gpu], [openvino]); they share one folder, so uninstall the others first"
)

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":  # a dependency of ONNX Runtime is missing: its own message is the better one
        raise
    raise ModuleNotFoundError(f"ONNX Runtime is not installed; {_INSTALL}", name="onnxruntime") from error

# Uninstalling one of two flavours removes files that both own; what is left still imports, as an empty namespace package.
if not hasattr(ort, "InferenceSession"):
    raise ImportError(f"ONNX Runtime is installed incompletely (no InferenceSession); {_INSTALL}", name="onnxruntime")
