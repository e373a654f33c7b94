"""The type in which a provider computes the floats of a graph: its default, or what the options say."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from runtime.bundle import Floats
from runtime.ort.known_providers import CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider

# OpenVINO's names, of the property of a device and of the older option `precision`
_HINTS: Final[Mapping[str, Floats]] = {"f16": "fp16", "fp16": "fp16", "bf16": "bf16"}
# Neural engines, whose drivers compute graphs in fp32 with halves by default
_HALVES: Final = ("coreml", "qnn", "nnapi")
_ARM_BF16: Final = "mlas.enable_gemm_fastmath_arm64_bfloat16"


def float_type(provider: Provider, requested: Sequence[tuple[str, Mapping[str, str]]], config: Mapping[str, str]) -> Floats:
    """Return the type in which a provider computes floats; for a graph in fp16, the type in which it computes fp32.

    Args:
        provider: the provider.
        requested: providers of the session and their options, of `session_providers`.
        config: `Options.session_config`.
    """
    options = requested[0][1]
    if provider.key == OPENVINO.key:
        return _openvino(options)
    if provider is TENSORRT:
        # Engines round the inputs of fp32 products to 10 bits by themselves
        enabled = [name for name in ("bf16", "fp16") if _is_on(options.get(f"trt_{name}_enable", ""))]
        return "bf16" if "bf16" in enabled else "fp16" if enabled else "tf32"
    if provider.key == TENSORRT_RTX.key or (provider is CUDA and _is_on(options.get("use_tf32", ""))):
        return "tf32"
    if provider.name in _HALVES:
        return "fp16"
    return "bf16" if config.get(_ARM_BF16) == "1" else "fp32"


def _openvino(options: Mapping[str, str]) -> Floats:
    config: dict[str, dict[str, Any]] = json.loads(options["load_config"])
    hints = [str(properties.get("INFERENCE_PRECISION_HINT", "")) for properties in config.values()]
    found = {_HINTS[hint.lower()] for hint in (*hints, options.get("precision", "")) if hint.lower() in _HINTS}
    return "bf16" if "bf16" in found else "fp16" if found else "fp32"


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true")
