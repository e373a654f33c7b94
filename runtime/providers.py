"""Names of execution providers -> what ONNX Runtime is asked for, and what to install where it is not there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from runtime._ort import ort
from runtime.errors import ProviderError


@dataclass(frozen=True)
class Provider:
    """An execution provider: `name` for users, `key` and `options` for ONNX Runtime, `package` that brings it."""

    name: str
    key: str
    package: str
    options: Mapping[str, str] = field(default_factory=dict)


KNOWN: Final = (
    Provider("cpu", "CPUExecutionProvider", "onnxruntime"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu"),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu"),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", {"device_type": "CPU"}),
)
NAMES: Final = ("auto", *(provider.name for provider in KNOWN))

# Best first. TensorRT is missing on purpose: it builds an engine for minutes, which nobody should meet by surprise.
_AUTO: Final = ("cuda", "openvino", "cpu")


def resolve(name: str) -> tuple[Provider, ...]:
    """The providers to try, in order: one for a name, for "auto" every installed one, the CPU last.

    Raises:
        ProviderError: an unknown name, or a provider that the installed ONNX Runtime does not contain.
    """
    if name not in NAMES:
        raise ProviderError(f"provider: expected one of {', '.join(NAMES)}, found {name!r}")
    known = {provider.name: provider for provider in KNOWN}
    available = ort.get_available_providers()
    if name == "auto":
        return tuple(known[each] for each in _AUTO if known[each].key in available)
    wanted = known[name]
    if wanted.key not in available:
        raise ProviderError(
            f"provider {name}: the installed ONNX Runtime has only {', '.join(map(short_name, available))}; uninstall it and "
            f"`pip install {wanted.package}` (onnxruntime, onnxruntime-gpu and onnxruntime-openvino exclude each other)"
        )
    return (wanted,)


def short_name(key: str) -> str:
    """The user's name of the ONNX Runtime provider `key`; ONNX Runtime's own where it is not one of ours."""
    return next((provider.name for provider in KNOWN if provider.key == key), key)
