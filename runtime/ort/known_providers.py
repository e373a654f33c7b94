"""Execution providers that have a name here, and the packages that contain them."""

from dataclasses import dataclass
from typing import Final

_SUFFIX: Final = "ExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: name for users.
        key: name in ONNX Runtime.
        package: distribution that contains it; empty if none is known.
        module: None for a provider that is compiled into ONNX Runtime. For a plug-in, the Python module that knows the path of
            its library; empty if the process has registered the library itself.
        needs: the oldest ONNX Runtime that takes a plug-in.
        parts: distributions that have the files of `package`, one for each version of CUDA.
    """

    name: str
    key: str
    package: str = ""
    module: str | None = None
    needs: str = "1.24.1"
    parts: tuple[str, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that may contain it; empty if none is known."""
        return (self.package, *self.parts) if self.package else ()

    @property
    def is_plugin(self) -> bool:
        """Whether ONNX Runtime loads it as a library that was registered."""
        return self.module is not None


def _other(key: str, package: str = "") -> Provider:
    return Provider(key.lower(), key + _SUFFIX, package)


CPU: Final = Provider("cpu", "CPUExecutionProvider", "onnxruntime")
CUDA: Final = Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu")
TENSORRT: Final = Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu")
OPENVINO: Final = Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino")
TENSORRT_RTX: Final = Provider("tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "onnxruntime-trt-rtx")
WEBGPU: Final = Provider("webgpu", "WebGpuExecutionProvider", "onnxruntime-webgpu")
QNN: Final = _other("QNN", "onnxruntime-qnn")
AZURE: Final = _other("Azure")  # sends requests to services, and runs no node of a graph

# Providers with options of their kind, and those that a plug-in adds to stock ONNX Runtime
KNOWN: Final = (CPU, CUDA, TENSORRT, OPENVINO, TENSORRT_RTX, WEBGPU)
# Providers that take only what ONNX Runtime's documentation says, in `Options.provider_options`
OTHERS: Final = (
    QNN,
    _other("CoreML", "onnxruntime"),
    _other("Dml", "onnxruntime-directml"),
    _other("MIGraphX", "onnxruntime-migraphx"),
    _other("ROCM", "onnxruntime-rocm"),
    _other("CANN", "onnxruntime-cann"),
    *map(_other, ("VitisAI", "Xnnpack", "Dnnl", "Nnapi", "ACL", "ArmNN", "Rknpu", "VSINPU")),
    AZURE,
)
NAMES: Final = ("auto", *(provider.name for provider in KNOWN))

OPENVINO_PLUGIN: Final = Provider("openvino", OPENVINO.key, "onnxruntime-ep-openvino", "onnxruntime_ep_openvino")
RTX_PLUGIN: Final = Provider(
    "tensorrt-rtx",
    TENSORRT_RTX.key,
    "onnxruntime-ep-nv-tensorrt-rtx",
    "onnxruntime_ep_nv_tensorrt_rtx",
    parts=("onnxruntime-ep-nv-tensorrt-rtx-cu12", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
)
WEBGPU_PLUGIN: Final = Provider("webgpu", WEBGPU.key, "onnxruntime-ep-webgpu", "onnxruntime_ep_webgpu", "1.24.4")
QNN_PLUGIN: Final = Provider("qnn", QNN.key, "onnxruntime-qnn", "onnxruntime_qnn")
PLUGINS: Final = {each.name: each for each in (OPENVINO_PLUGIN, RTX_PLUGIN, WEBGPU_PLUGIN, QNN_PLUGIN)}


def short_name(key: str) -> str:
    """Return the name for users of the ONNX Runtime provider `key`; `key` itself for an unknown provider.

    OpenVINO's plug-in adds the name of a virtual device, as in "OpenVINOExecutionProvider.AUTO".
    """
    return next((provider.name for provider in (*KNOWN, *OTHERS) if provider.key == key.partition(".")[0]), key)


def spellings(provider: Provider) -> tuple[str, ...]:
    """Return the names under which users may ask for a provider, in lower case."""
    key = provider.key.lower()
    return provider.name.lower(), key, key.removesuffix(_SUFFIX.lower())
