"""Execution providers: resolution of their names and translation of `Options` into provider options."""

import json
from dataclasses import dataclass
from typing import Final

from runtime.bundle import Manifest
from runtime.bundle.entries import BATCH
from runtime.errors import ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.cache_folder import cache_folder
from runtime.ort.cpu_info import multiplies_bf16


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: name for users.
        key: name in ONNX Runtime.
        package: Python package that contains it.
    """

    name: str
    key: str
    package: str


CPU: Final = Provider("cpu", "CPUExecutionProvider", "onnxruntime")
CUDA: Final = Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu")
TENSORRT: Final = Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu")
OPENVINO: Final = Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino")
KNOWN: Final = (CPU, CUDA, TENSORRT, OPENVINO)
NAMES: Final = ("auto", *(provider.name for provider in KNOWN))

# Largest sequence length for TensorRT if neither the model nor the options define one
_LONGEST: Final = 512

# Best first. TensorRT is missing on purpose: it builds an engine for minutes, so it must be requested by name.
_AUTO: Final = ("cuda", "openvino", "cpu")
# Targets whose graphs contain operators that other providers do not support and would leave to the CPU one by one.
_ONLY: Final = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "openvino": ("openvino", "cpu")}


def resolve(name: str, manifest: Manifest) -> tuple[Provider, ...]:
    """Return the providers to try, in order.

    Args:
        name: name of a provider, or "auto".
        manifest: manifest of the bundle.

    Returns:
        The named provider; for "auto", every installed provider that supports the bundle's target and precision, the CPU last.

    Raises:
        ProviderError: the name is unknown, or the installed ONNX Runtime does not contain the provider.
    """
    if name not in NAMES:
        raise ProviderError(f"provider: expected one of {', '.join(NAMES)}, found {name!r}")
    known = {provider.name: provider for provider in KNOWN}
    available = ort.get_available_providers()
    if name == "auto":
        # Portable int8 graphs are fast only on the CPU: OpenVINO computes them in floats, CUDA leaves most nodes to the CPU.
        integers = manifest.target == "portable" and manifest.precision == "int8"
        suited = ("cpu",) if integers else _ONLY.get(manifest.target, _AUTO)
        return tuple(known[each] for each in suited if known[each].key in available)
    wanted = known[name]
    if wanted.key not in available:
        raise ProviderError(
            f"provider {name}: the installed ONNX Runtime has only {', '.join(map(short_name, available))}; uninstall it and "
            f"`pip install {wanted.package}` (onnxruntime, onnxruntime-gpu and onnxruntime-openvino exclude each other)"
        )
    return (wanted,)


def session_providers(
    provider: Provider, options: Options, manifest: Manifest, graphs: bool = True
) -> list[tuple[str, dict[str, str]]]:
    """Return the argument `providers` of InferenceSession.

    Args:
        provider: requested provider.
        options: session options.
        manifest: manifest of the bundle.
        graphs: enable CUDA graphs if the options have shapes for them.

    Returns:
        The provider and its options; TensorRT is followed by CUDA for the nodes that it does not support.

    Raises:
        InputError: the cache folder cannot be used.
    """
    if provider is CUDA:
        return [(CUDA.key, _cuda(options, graphs=graphs and bool(options.cuda.graphs)))]
    if provider is TENSORRT:
        return [(TENSORRT.key, _tensorrt(options, manifest)), (CUDA.key, _cuda(options, graphs=False))]
    if provider is OPENVINO:
        return [(OPENVINO.key, _openvino(options, manifest))]
    return [(CPU.key, {})]


def profile(manifest: Manifest, options: Options) -> dict[str, dict[str, str]]:
    """Return TensorRT's optimization profile: "min", "opt" or "max" -> input name -> shape, such as "1x128".

    The length of every named axis other than batch comes from `options.tensorrt`, limited to the model's maximum.
    """
    best, largest = options.tensorrt.best, options.tensorrt.largest
    sizes: dict[str, dict[str, int]] = {"min": {BATCH: 1}, "opt": {BATCH: best[0]}, "max": {BATCH: largest[0]}}
    for axis in {axis for entry in manifest.inputs for axis in entry.axes} - {BATCH}:
        limit = manifest.max_lengths.get(axis, largest[1] or _LONGEST)
        top = min(limit, largest[1] or limit)
        sizes["min"][axis], sizes["opt"][axis], sizes["max"][axis] = 1, min(best[1], top), top
    return {
        bound: {entry.name: "x".join(str(at.get(axis, axis)) for axis in entry.shape) for entry in manifest.inputs}
        for bound, at in sizes.items()
    }


def _cuda(options: Options, graphs: bool) -> dict[str, str]:
    cuda = options.cuda
    found = {
        "device_id": str(cuda.device),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles the arena whenever it grows
        "cudnn_conv_algo_search": cuda.conv_search,
        "use_tf32": str(int(cuda.tf32)),
        "enable_cuda_graph": str(int(graphs)),
    }
    return found | ({} if cuda.memory_limit is None else {"gpu_mem_limit": str(cuda.memory_limit)})


def _tensorrt(options: Options, manifest: Manifest) -> dict[str, str]:
    tensorrt, found = options.tensorrt, {"device_id": str(options.cuda.device)}
    for precision, enabled in (("fp16", tensorrt.fp16), ("bf16", tensorrt.bf16)):
        found[f"trt_{precision}_enable"] = str(manifest.precision == precision if enabled is None else enabled)
    for bound, shapes in profile(manifest, options).items():
        found[f"trt_profile_{bound}_shapes"] = ",".join(f"{name}:{shape}" for name, shape in shapes.items())
    if tensorrt.workspace is not None:
        found["trt_max_workspace_size"] = str(tensorrt.workspace)
    if options.cache is not None:
        folder = str(cache_folder(options.cache, manifest, "tensorrt", repr(tensorrt)))
        for kind in ("engine", "timing"):
            found |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": folder}
    return found


def _openvino(options: Options, manifest: Manifest) -> dict[str, str]:
    openvino, cpu = options.openvino, options.openvino.device == "CPU"
    settings: dict[str, str] = {"INFERENCE_PRECISION_HINT": openvino.precision or _openvino_precision(manifest, cpu)}
    if cpu:
        settings["CPU_RUNTIME_CACHE_CAPACITY"] = str(openvino.kernels)
    if cpu and options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(options.threads)
    found = {"device_type": openvino.device, "load_config": json.dumps({openvino.device: settings})}
    if options.cache is not None:
        found["cache_dir"] = str(cache_folder(options.cache, manifest, "openvino", repr((openvino, options.threads))))
    return found


def _openvino_precision(manifest: Manifest, cpu: bool) -> str:
    """Return the default precision hint for floats.

    In an int8 graph, bf16 is accurate enough for the remaining floats. OpenVINO would select bf16 on a CPU with the
    instructions, but the default of ONNX Runtime's provider is f32.
    """
    integers = manifest.target == "openvino" and manifest.precision == "int8"
    fast = integers and cpu and multiplies_bf16()
    return "bf16" if manifest.precision == "bf16" or fast else "f32"


def short_name(key: str) -> str:
    """Return the name for users of the ONNX Runtime provider `key`; `key` itself for an unknown provider."""
    return next((provider.name for provider in KNOWN if provider.key == key), key)
