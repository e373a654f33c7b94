"""Names of execution providers -> what ONNX Runtime is asked for, and what to install where it is not there."""

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
    """An execution provider: `name` for users, `key` for ONNX Runtime, `package` that brings it."""

    name: str
    key: str
    package: str


CPU: Final = Provider("cpu", "CPUExecutionProvider", "onnxruntime")
CUDA: Final = Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu")
TENSORRT: Final = Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu")
OPENVINO: Final = Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino")
KNOWN: Final = (CPU, CUDA, TENSORRT, OPENVINO)
NAMES: Final = ("auto", *(provider.name for provider in KNOWN))

# TensorRT's longest sequence where neither the model nor the options know one
_LONGEST: Final = 512

# Best first. TensorRT is missing on purpose: it builds an engine for minutes, which nobody should meet by surprise.
_AUTO: Final = ("cuda", "openvino", "cpu")
# Targets whose graphs hold operators that the other providers do not know, and would leave to the CPU one by one.
_ONLY: Final = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "openvino": ("openvino", "cpu")}


def resolve(name: str, manifest: Manifest) -> tuple[Provider, ...]:
    """The providers to try, in order: one for a name, for "auto" every installed one that suits the bundle's target and
    precision, the CPU last.

    Raises:
        ProviderError: an unknown name, or a provider that the installed ONNX Runtime does not contain.
    """
    if name not in NAMES:
        raise ProviderError(f"provider: expected one of {', '.join(NAMES)}, found {name!r}")
    known = {provider.name: provider for provider in KNOWN}
    available = ort.get_available_providers()
    if name == "auto":
        # Integers of the portable form are fast on the CPU alone: OpenVINO computes them in floats, CUDA leaves most of them.
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


def requests(provider: Provider, options: Options, manifest: Manifest) -> list[tuple[str, dict[str, str]]]:
    """The `providers` argument of an InferenceSession: the provider and, behind TensorRT, the one for what it leaves over.

    Raises:
        InputError: the cache folder cannot be used.
    """
    if provider is CUDA:
        return [(CUDA.key, _cuda(options, graphs=bool(options.cuda.graphs)))]
    if provider is TENSORRT:
        return [(TENSORRT.key, _tensorrt(options, manifest)), (CUDA.key, _cuda(options, graphs=False))]
    if provider is OPENVINO:
        return [(OPENVINO.key, _openvino(options, manifest))]
    return [(CPU.key, {})]


def profile(manifest: Manifest, options: Options) -> dict[str, dict[str, str]]:
    """TensorRT's optimization profile: "min", "opt", "max" -> input -> "1x128". Axes of the manifest other than batch are
    as long as `options.tensorrt` says, and never longer than the model takes."""
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
        "arena_extend_strategy": "kSameAsRequested",  # the other doubles the arena at every growth
        "cudnn_conv_algo_search": cuda.conv_search,
        "use_tf32": str(int(cuda.tf32)),
        "enable_cuda_graph": str(int(graphs)),
    }
    return found | ({} if cuda.memory_limit is None else {"gpu_mem_limit": str(cuda.memory_limit)})


def _tensorrt(options: Options, manifest: Manifest) -> dict[str, str]:
    tensorrt, found = options.tensorrt, {"device_id": str(options.cuda.device)}
    for precision, asked in (("fp16", tensorrt.fp16), ("bf16", tensorrt.bf16)):
        found[f"trt_{precision}_enable"] = str(manifest.precision == precision if asked is None else asked)
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
    if cpu and options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(options.threads)
    found = {"device_type": openvino.device, "load_config": json.dumps({openvino.device: settings})}
    if options.cache is not None:
        found["cache_dir"] = str(cache_folder(options.cache, manifest, "openvino", repr((openvino, options.threads))))
    return found


def _openvino_precision(manifest: Manifest, cpu: bool) -> str:
    """What OpenVINO computes floats in unless it is told. Beside 8-bit integers, floats of 16 bits are exact enough. OpenVINO
    would take them by itself where they are fast, but ONNX Runtime's default for it is f32."""
    integers = manifest.target == "openvino" and manifest.precision == "int8"
    fast = integers and cpu and multiplies_bf16()
    return "bf16" if manifest.precision == "bf16" or fast else "f32"


def short_name(key: str) -> str:
    """The user's name of the ONNX Runtime provider `key`; ONNX Runtime's own where it is not one of ours."""
    return next((provider.name for provider in KNOWN if provider.key == key), key)
