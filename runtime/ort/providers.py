"""Execution providers: which one a name means, and whether it is installed."""

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from runtime.bundle import Manifest
from runtime.errors import ProviderError
from runtime.ort import plugins
from runtime.ort.known_providers import AZURE, KNOWN, NAMES, OTHERS, PLUGINS, Provider, short_name, spellings

# Best first. TensorRT is missing on purpose: it builds an engine for minutes, so it must be requested by name.
AUTO: Final = ("cuda", "openvino", "cpu")
# Targets whose graphs contain operators that other providers do not support and would leave to the CPU one by one.
TARGETS_OF_ONE: Final = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "openvino": ("openvino", "cpu")}
# Why azure is refused: without an error, all nodes would run on the CPU
REMOTE: Final = "it sends requests to services and runs no node of a graph"
# What people call a provider -> its name, for messages
_CALLED: Final = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "trt": "tensorrt",
    "rtx": "tensorrt-rtx",
    "directml": "dml",
    "amd": "migraphx",
}


def resolve(name: str, manifest: Manifest) -> tuple[Provider, ...]:
    """Return the providers to try, in order.

    Args:
        name: name of a provider, in any case; "auto".
        manifest: manifest of the bundle.

    Returns:
        The named provider; for "auto", every installed provider that supports the bundle's target and precision, the CPU last.

    Raises:
        ProviderError: the name is unknown, or the provider is not installed.
    """
    if str(name).lower() == "auto":
        return tuple(in_order(auto_order(manifest.target, manifest.precision)))
    wanted = find(name)
    if (found := installed(wanted)) is None:
        raise ProviderError(not_installed(wanted))
    return (found,)


def auto_order(target: str, precision: str) -> tuple[str, ...]:
    """Return the names of the providers among which "auto" selects for a bundle, best first."""
    # Portable int8 graphs are fast only on the CPU: OpenVINO computes them in floats, CUDA leaves most nodes to the CPU.
    return ("cpu",) if (target, precision) == ("portable", "int8") else TARGETS_OF_ONE.get(target, AUTO)


def in_order(names: tuple[str, ...]) -> Iterator[Provider]:
    """Yield those of the named providers that are installed."""
    known = {provider.name: provider for provider in KNOWN}
    yield from (found for name in names if (found := installed(known[name])) is not None)


def find(name: str) -> Provider:
    """Return the provider that a name means: ours, or that of ONNX Runtime with or without "ExecutionProvider", in any case.

    Raises:
        ProviderError: no provider has this name, and the message has the nearest one; or it computes nothing.
    """
    named = {each: provider for provider in reversed(every()) for each in spellings(provider)}
    written = str(name).lower()  # of callers without types as well
    if (found := named.get(written)) is not None:
        if found == AZURE:
            raise ProviderError(f"provider azure: {REMOTE}; use another one, such as cpu")
        return found
    close = difflib.get_close_matches(written, named, 1, 0.6)
    nearest = _CALLED.get(written) or (named[close[0]].name if close else None)
    raise ProviderError(
        f"provider: expected one of {', '.join(NAMES)}, or a provider of ONNX Runtime such as "
        f"{', '.join(provider.name for provider in OTHERS[:5])}, found {name!r}"
        + (f"; the nearest is {nearest}" if nearest else "")
    )


def installed(provider: Provider) -> Provider | None:
    """Return a provider as it is installed: in ONNX Runtime itself, else as a plug-in. None if it is not."""
    if provider.key in plugins.built_in():
        return provider
    plugin = PLUGINS.get(provider.name)
    if plugin is not None and plugins.is_importable(plugin):
        return plugin
    return replace(provider, package="", module="") if provider.key in plugins.registered() else None


def not_installed(provider: Provider) -> str:
    """Return the message for a provider that is not installed."""
    advice = plugins.overlaid() or remedy(provider)
    return f"provider {provider.name}: the installed ONNX Runtime has only {_available()}; {advice}"


def remedy(provider: Provider) -> str:
    """Return what to install for a provider."""
    if (plugin := PLUGINS.get(provider.name)) is not None:
        return f"`pip install {plugin.package}`, a plug-in for ONNX Runtime {plugin.needs} or newer"
    if provider.package == "onnxruntime":
        return "`onnxruntime` contains it on the systems that have it"
    if not provider.package:
        return "install a build of ONNX Runtime that contains it"
    return f"`pip install {provider.package}` in place of the installed ONNX Runtime (its builds exclude each other)"


def every() -> list[Provider]:
    """Return all providers with a name, then those that only this ONNX Runtime or this process has."""
    found = {provider.key: provider for provider in (*KNOWN, *OTHERS)}
    for key in (*plugins.built_in(), *sorted(plugins.registered())):
        if "." not in key:  # OpenVINOExecutionProvider.AUTO is a device of OpenVINO
            found.setdefault(key, Provider(key, key))
    return list(found.values())


def _available() -> str:
    return ", ".join(map(short_name, plugins.built_in()))
