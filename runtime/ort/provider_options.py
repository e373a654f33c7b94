"""Translation of `Options` into the options of an execution provider."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from runtime.bundle import Manifest
from runtime.bundle.interface import BATCH
from runtime.errors import InputError
from runtime.options import Options
from runtime.ort.cache_folder import cache_folder
from runtime.ort.cpu import multiplies_bf16
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider
from runtime.ort.option_names import check_provider_options
from runtime.ort.plugins import select
from runtime.ort.seen_devices import ON_NVIDIA, openvino_devices

# Largest sequence length for TensorRT if neither the model nor the options define one
_LONGEST: Final = 512
LOAD_CONFIG: Final = "load_config"
_DEVICE_TYPE: Final = "device_type"
# Options of the provider in onnxruntime-openvino that the plug-in accepts and ignores -> what has their effect
_IGNORED: Final = {
    _DEVICE_TYPE: "options.openvino.device",
    "device_id": "options.openvino.device",
    "precision": "options.openvino.precision",
    "num_of_threads": "options.threads",
    "cache_dir": "options.cache",
    "num_streams": "load_config",
    "model_priority": "load_config",
    "enable_opencl_throttling": "load_config",
}


def request(settings: Any, provider: Provider, options: Options, manifest: Manifest, graphs: bool = True) -> Any:
    """Ask for a provider in the settings of a session, SessionOptions, to which a plug-in and its device are added.

    `graphs` enables CUDA graphs if the options have shapes for them.

    Returns:
        The argument `providers` of InferenceSession; None for a plug-in.

    Raises:
        InputError: the cache folder or an option cannot be used.
        ProviderError: the plug-in cannot be registered, or does not see the device.
    """
    check_provider_options(provider, options.provider_options)
    found = session_providers(provider, options, manifest, graphs)
    if not provider.is_plugin:
        return found
    settings.add_provider_for_devices(select(provider, options), found[0][1])
    return None


def with_device(provider: Provider, options: Options) -> Options:
    """Return options whose device is that of the provider's options: `device_id` on GPUs, `device_type` of OpenVINO's build.

    Raises:
        InputError: the `device_id` of a GPU is no number.
    """
    if provider == OPENVINO and _DEVICE_TYPE in options.provider_options:
        more = dict(options.provider_options)
        return replace(options, openvino=replace(options.openvino, device=more.pop(_DEVICE_TYPE)), provider_options=more)
    given = options.provider_options.get("device_id")
    if given is None or provider.key not in ON_NVIDIA:
        return options
    if not given.isdecimal():
        raise InputError(f"options.provider_options: device_id: expected the index of a GPU, found {given!r}")
    return replace(options, cuda=replace(options.cuda, device=int(given)))


def session_providers(
    provider: Provider, options: Options, manifest: Manifest, graphs: bool = True
) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session and their options, for the arguments of `request`.

    Returns:
        The provider and its options, of which `options.provider_options` take precedence; TensorRT is followed by CUDA for the
        nodes that it does not support.

    Raises:
        InputError: the cache folder or an option cannot be used.
    """
    more = dict(options.provider_options)
    if provider.key == OPENVINO.key:
        return [(OPENVINO.key, _openvino(options, manifest, provider.is_plugin))]
    if provider is CUDA:
        return [(CUDA.key, _cuda(options, graphs=graphs and bool(options.cuda.graphs)) | more)]
    if provider is TENSORRT:
        return [(TENSORRT.key, _tensorrt(options, manifest) | more), (CUDA.key, _cuda(options, graphs=False))]
    if provider.key == TENSORRT_RTX.key:
        return [(TENSORRT_RTX.key, _tensorrt_rtx(options, manifest) | more)]
    if provider is CPU and more:  # ONNX Runtime ignores them
        raise InputError(
            f"options.provider_options: provider cpu has none, found {', '.join(more)}; its settings are in session_config"
        )
    return [(provider.key, more)]


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
    found |= _engine("trt", options, manifest)
    if options.cache is not None:
        folder = str(cache_folder(options.cache, manifest, "tensorrt", _key(options, tensorrt)))
        for kind in ("engine", "timing"):
            found |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": folder}
    return found


def _tensorrt_rtx(options: Options, manifest: Manifest) -> dict[str, str]:
    """The graph's types decide the precision, and the session's device is the GPU."""
    found = _engine("nv", options, manifest)
    if options.cache is not None:
        found["nv_runtime_cache_path"] = str(cache_folder(options.cache, manifest, "rtx", _key(options, options.tensorrt)))
    return found


def _engine(prefix: str, options: Options, manifest: Manifest) -> dict[str, str]:
    found = {
        f"{prefix}_profile_{bound}_shapes": ",".join(f"{name}:{shape}" for name, shape in shapes.items())
        for bound, shapes in profile(manifest, options).items()
    }
    workspace = options.tensorrt.workspace
    return found | ({} if workspace is None else {f"{prefix}_max_workspace_size": str(workspace)})


def _openvino(options: Options, manifest: Manifest, plugin: bool) -> dict[str, str]:
    openvino, more = options.openvino, dict(options.provider_options)
    if plugin and (ignored := [f"{name} (use {_IGNORED[name]})" for name in more if name in _IGNORED]):
        raise InputError(f"options.provider_options: OpenVINO's plug-in ignores {', '.join(ignored)}")
    device = openvino.device if plugin else _listed(openvino.device)
    # Without a hint, OpenVINO computes in bf16 on a CPU with the instructions
    precision = openvino.precision or _openvino_precision(manifest, device == "CPU")
    settings: dict[str, dict[str, Any]] = {
        each: {"INFERENCE_PRECISION_HINT": precision} for each in ((device,) if plugin else _kinds(device))
    }
    if "CPU" in settings:
        settings["CPU"]["CPU_RUNTIME_CACHE_CAPACITY"] = str(openvino.kernels)
        if options.threads is not None:
            settings["CPU"]["INFERENCE_NUM_THREADS"] = str(options.threads)
    found = {} if plugin else {_DEVICE_TYPE: device}
    if options.cache is not None:
        folder = str(cache_folder(options.cache, manifest, "openvino", _key(options, (openvino, options.threads))))
        if plugin:
            settings[device]["CACHE_DIR"] = folder
        else:
            found["cache_dir"] = folder
    config = _merged(settings, more.pop(LOAD_CONFIG, "{}"))
    return found | {LOAD_CONFIG: json.dumps(config)} | more


def _listed(device: str) -> str:
    """Return "AUTO" with its devices, best first: without them, onnxruntime-openvino takes no node."""
    if device != "AUTO":
        return device
    every = [*(openvino_devices() or ()), "CPU"]
    return f"AUTO:{','.join(dict.fromkeys([*(each for each in every if each.startswith('GPU')), 'CPU']))}"


def _kinds(device: str) -> dict[str, None]:
    """Return the names under which onnxruntime-openvino takes properties: those of kinds, in any other it finds none.

    GPU.1 is a GPU, and HETERO:GPU.1,CPU has its own properties and those of a CPU.
    """
    mode, _, parts = device.partition(":")
    cpu = ["CPU"] if "CPU" in parts.split(",") else []
    return dict.fromkeys([mode.partition(".")[0], *cpu])


def _merged(ours: dict[str, dict[str, Any]], given: str) -> dict[str, Any]:
    """Add a load_config of the user to ours: what it does not mention, such as the precision, stays as it is."""
    try:
        theirs = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InputError(f"options.provider_options: load_config: expected JSON, found {given[:1000]!r}: {error}") from error
    if not isinstance(theirs, dict) or not all(isinstance(each, dict) for each in theirs.values()):
        raise InputError(
            'options.provider_options: load_config: expected the properties of devices, such as {"CPU": {"NUM_STREAMS": "1"}}, '
            f"found {given!r}"
        )
    return ours | {device: ours.get(device, {}) | properties for device, properties in theirs.items()}


def _key(options: Options, own: object) -> str:
    """The settings that cached files depend on."""
    more: Mapping[str, str] = {**options.provider_options, **options.session_config}
    return repr(own) + (repr(sorted(more.items())) if more else "")


def _openvino_precision(manifest: Manifest, cpu: bool) -> str:
    """Return the default precision hint for floats.

    In an int8 graph, bf16 is accurate enough for the remaining floats. OpenVINO would select bf16 on a CPU with the
    instructions, but the default of ONNX Runtime's provider is f32.
    """
    integers = manifest.target == "openvino" and manifest.precision == "int8"
    fast = integers and cpu and multiplies_bf16()
    return "bf16" if manifest.precision == "bf16" or fast else "f32"
