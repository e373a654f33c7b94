"""Plug-in execution providers: libraries that ONNX Runtime 1.24.1 and newer load next to the providers they contain.

A Python package brings the library and knows its path. ONNX Runtime keeps the list of registered libraries, for the whole
process; `get_ep_devices` returns one entry for each pair of a plug-in and a device that it can use.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import threading
from pathlib import Path
from typing import Any, Final

from runtime.errors import ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.known_providers import KNOWN, OPENVINO, OTHERS, TENSORRT_RTX, Provider
from runtime.ort.libraries import PARTS, truncated_libraries

_BUILDS: Final = tuple(
    dict.fromkeys(("onnxruntime", *(each.package for each in (*KNOWN, *OTHERS) if each.package and each.name != "qnn")))
)

# What stands before a reason of ONNX Runtime and OpenVINO: a code; places in their sources, with the signature of the function
_NOISE: Final = re.compile(
    r"(?:(?<=\s)|^)(?:\[ONNXRuntimeError\] : \d+ : \w+ : |Exception from \S+\.cpp:\d+: ?"
    r"|\S+\.(?:cc|cpp|cu|h):\d+ [^)]*\)+(?: const)?(?: \[with [^]]*\])? (?=\S))"
)
_LONGEST: Final = 600  # characters of a reason

_LOCK: Final = threading.Lock()
_BEST_FIRST: Final = ("NPU", "GPU", "CPU")


def ep_devices() -> list[Any]:
    """Return ONNX Runtime's list of pairs of a provider and a device; empty before version 1.22."""
    return list(ort.get_ep_devices()) if hasattr(ort, "get_ep_devices") else []


def registered() -> set[str]:
    """Return the keys of the plug-ins that are registered in this process and have a device.

    Newer versions of ONNX Runtime list them as available and give the path of the library, 1.24 does neither.
    """
    listed = ort.get_available_providers()
    return {each.ep_name for each in ep_devices() if "library_path" in each.ep_metadata or each.ep_name not in listed}


def built_in() -> list[str]:
    """Return the keys of the providers that the installed ONNX Runtime contains; it lists registered plug-ins as well."""
    plugins = registered()
    return [key for key in ort.get_available_providers() if key not in plugins]


def is_importable(plugin: Provider) -> bool:
    """Return whether the Python package of a plug-in is installed."""
    return plugin.module is not None and importlib.util.find_spec(plugin.module) is not None


def version(package: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_packages(plugin: Provider) -> list[str]:
    """Return the distributions of a plug-in that are installed; the known one if none is found."""
    return [each for each in plugin.packages if version(each)] or [plugin.package]


def origin(plugin: Provider) -> str:
    """Return the distribution that contains a plug-in, with its version if it is installed; empty if none is known."""
    package = installed_packages(plugin)[0]
    return f"{package} {version(package) or ''}".strip() if package else ""


def register(plugin: Provider) -> None:
    """Register the library of a plug-in, once per process.

    Raises:
        ProviderError: ONNX Runtime is too old, or the library does not load or is for another ONNX Runtime.
    """
    if not hasattr(ort, "register_execution_provider_library") or not hasattr(ort.SessionOptions, "add_provider_for_devices"):
        raise ProviderError(
            f"provider {plugin.name}: {_titled(plugin)} is a plug-in for ONNX Runtime {plugin.needs} or newer, found "
            f"{ort.__version__}; "
            "`pip install --upgrade onnxruntime`"
        )
    if plugin.module:
        with _LOCK:
            if plugin.key not in registered():
                _register(plugin)


@functools.cache  # ONNX Runtime refuses a second registration; without a device, the first one left no trace
def _register(plugin: Provider) -> None:
    if damaged := {package: found for package in plugin.packages if (found := truncated_libraries(package))}:
        files = [file for found in damaged.values() for file in found]
        raise ProviderError(
            f"provider {plugin.name}: {_titled(plugin)} is installed incompletely: {', '.join(files[:3])}; "
            f"`pip install --force-reinstall --no-deps {' '.join(damaged)}`"
        )
    try:
        module = importlib.import_module(str(plugin.module))
        # Some plug-ins, such as QNN's, take this name for that of the provider
        ort.register_execution_provider_library(plugin.key, str(module.get_library_path()))
    except Exception as error:  # packages raise what they like, and ONNX Runtime's exceptions have no common base
        raise ProviderError(
            f"provider {plugin.name}: ONNX Runtime {ort.__version__} cannot load {_titled(plugin)}: {reason_of(error)}; "
            "install the driver or library that is missing, or versions that belong together: "
            f"`pip install --upgrade onnxruntime {plugin.package}`"
        ) from error


def devices(plugin: Provider) -> list[Any]:
    """Return the devices that a plug-in can use, registering it first.

    Raises:
        ProviderError: as for `register`.
    """
    register(plugin)
    return [each for each in ep_devices() if _belongs(each, plugin)]


def select(plugin: Provider, options: Options) -> list[Any]:
    """Return the devices for a session: that of the options, or the first of the most specific kind.

    Raises:
        ProviderError: the plug-in cannot be registered, or has no such device.
    """
    found = devices(plugin)
    wanted = ""
    if plugin.key == OPENVINO.key:
        wanted = options.openvino.device
        chosen = [each for each in found if described(each)[0] == wanted][:1]
    elif plugin.key == TENSORRT_RTX.key:
        wanted = str(options.cuda.device) if options.cuda.device else ""
        chosen = found[options.cuda.device :][:1]
    else:
        chosen = sorted(found, key=lambda each: _BEST_FIRST.index(each.device.type.name))[:1]
    if chosen:
        return chosen
    names = ", ".join(dict.fromkeys(described(each)[0] for each in found))
    reason = f"{_titled(plugin)} sees no device{f' {wanted}' * bool(wanted)}" + (f", only {names}" if names else "")
    raise ProviderError(failure(plugin, reason + ("" if found else no_device_advice(plugin))))


def no_device_advice(plugin: Provider) -> str:
    """Return what to do if a plug-in sees no device, after a semicolon; empty if that is not known."""
    if is_older(plugin.needs):
        return f"; it is a plug-in for ONNX Runtime {plugin.needs} or newer: `pip install --upgrade onnxruntime`"
    if plugin.key == OPENVINO.key:
        return "; it supports devices of Intel only: for an AMD processor, install onnxruntime-openvino in place of onnxruntime"
    return ""


def described(device: Any) -> tuple[str, str]:
    """Return the name of a device for its plug-in, such as CPU or GPU, and its description."""
    own = device.ep_metadata
    name = own.get("ov_meta_device") or own.get("ov_device") or device.device.type.name
    details = own.get("FULL_DEVICE_NAME") or device.device.metadata.get("Description") or device.device.vendor
    return name, details


def builds() -> list[str]:
    """Return the builds of ONNX Runtime in the folder of the imported one, with their versions."""
    return [f"{name} {version(name)}" for name in _builds()]


def incomplete_build(provider: Provider) -> str | None:
    """Return the message for truncated libraries of a provider of ONNX Runtime, which would end the process; or None."""
    if provider.is_plugin or provider.key not in PARTS or not (damaged := _truncated_build()):
        return None
    build, files = damaged
    return f"{build} is installed incompletely: {', '.join(files[:3])}; `pip install --force-reinstall --no-deps {build}`"


@functools.cache  # reads the list of its files
def _truncated_build() -> tuple[str, list[str]] | None:
    found = _builds()
    if len(found) != 1:  # of builds over each other, no list of files is right, as `overlaid` says
        return None
    files = truncated_libraries(found[0])
    return (found[0], files) if files else None


def _builds() -> list[str]:
    return [name for name in _BUILDS if version(name) and _is_imported(name)]


def _is_imported(build: str) -> bool:
    """Return whether a build is in the folder from which ONNX Runtime was imported; True if that is unknown."""
    try:
        folder = Path(str(importlib.metadata.distribution(build).locate_file("onnxruntime")))
    except importlib.metadata.PackageNotFoundError:
        return True
    imported = Path(str(ort.__file__)).parent
    return not folder.is_dir() or folder.resolve() == imported.resolve()


def overlaid() -> str | None:
    """Return the message for builds of ONNX Runtime that overwrite each other's files; None for a single one."""
    if len(found := builds()) < 2:
        return None
    return f"{', '.join(found)} are installed over each other in one folder: uninstall all of them, then install one"


def reason_of(error: BaseException) -> str:
    """Return the reason in a message of ONNX Runtime, in one line."""
    text = " ".join(str(error).partition("\nStacktrace")[0].split()) or type(error).__name__
    text = _NOISE.sub("", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def failure(provider: Provider, reason: str) -> str:
    """Return the message for an installed provider that does not work."""
    needs = f"{provider.package or 'the provider'} with ONNX Runtime {ort.__version__}"
    advice = overlaid() or f"check the device, its driver and the libraries that {needs} needs"
    return (
        f"provider {provider.name}: it is installed but does not work here: {' '.join(reason.split())}; {advice}, or use "
        "provider cpu"
    )


def _belongs(device: Any, plugin: Provider) -> bool:
    """Whether a plug-in can compute on a device. A virtual one can only compile; OpenVINO adds AUTO as a provider's suffix."""
    own = device.ep_name == plugin.key or device.ep_name.startswith(f"{plugin.key}.")
    return bool(own) and device.device.metadata.get("is_virtual") != "1"


def is_older(needed: str) -> bool:
    """Return whether the installed ONNX Runtime is older than a version."""
    return _numbers(ort.__version__) < _numbers(needed)


def _numbers(version_text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version_text)[:3]]


def _titled(plugin: Provider) -> str:
    return origin(plugin) or "its library"
