"""List of execution providers, their devices and what is missing: `python -m runtime devices`."""

import json
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from runtime.command_options import CommandParser
from runtime.errors import ProviderError
from runtime.import_ort import ort
from runtime.ort import plugins
from runtime.ort.cpu import cpu_limits, processor
from runtime.ort.known_providers import AZURE, CPU, KNOWN, OPENVINO, Provider
from runtime.ort.providers import REMOTE, TARGETS_OF_ONE, auto_order, every, in_order, installed, remedy
from runtime.ort.seen_devices import ON_NVIDIA, gpus, openvino_devices

_REGISTER: Final = """
import sys
sys.path[:] = sys.argv[2:]
from runtime.ort import known_providers, plugins
plugins.register(known_providers.PLUGINS[sys.argv[1]])
"""
_SECONDS: Final = 60
_LARGEST_STATUS: Final = 255  # Windows has larger ones for exceptions of the processor


@dataclass(frozen=True)
class Found:
    """An execution provider as this process finds it.

    Attributes:
        name: name for `load(provider=…)`.
        key: name in ONNX Runtime.
        installed: whether it is installed.
        origin: "ONNX Runtime" for one that it contains; the distribution and version of a plug-in; None if not installed.
        devices: those that it sees; None if that shows only when a bundle is loaded.
        problem: why an installed plug-in does not load.
        install: what to install, for one that is not installed.
    """

    name: str
    key: str
    installed: bool
    origin: str | None = None
    devices: tuple[str, ...] | None = None
    problem: str | None = None
    install: str | None = None


def survey() -> dict[str, Any]:
    """Return the providers that are installed or have a known package, what "auto" takes, and problems of the installation."""
    found = list(map(_examine, every()))
    usable = {each.name for each in found if each.installed and each.problem is None and each.devices != ()}
    auto = _auto("portable", "fp32", usable)
    others = {"portable int8": _auto("portable", "int8", usable)}
    others |= {f"--target {target}": _auto(target, "fp32", usable) for target in TARGETS_OF_ONE}
    overlaid, limits = plugins.overlaid(), cpu_limits()
    return {
        "onnxruntime": ort.__version__,
        "packages": plugins.builds(),
        "auto": auto,
        "auto_otherwise": {kind: own for kind, own in others.items() if own != auto},
        "problems": [] if overlaid is None else [overlaid],
        "cpu": {"limits": str(limits), "threads": limits.threads or limits.machine or None},
        "providers": [asdict(each) for each in found if each.installed or each.install],
    }


def ended_process(plugin: Provider) -> str | None:
    """Return how another process ends that registers a plug-in, if its library ends it, such as a damaged one; or None."""
    command = [sys.executable, "-c", _REGISTER, plugin.name, *sys.path]
    try:
        status = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    if status < 0:
        return signal.Signals(-status).name
    return f"status {status:#x}" if status > _LARGEST_STATUS else None


def _auto(target: str, precision: str, usable: Collection[str]) -> list[str]:
    return [each.name for each in in_order(auto_order(target, precision)) if each.name in usable]


def described(arguments: Sequence[str]) -> str:
    """Return the output of `python -m runtime devices`, with its arguments."""
    parser = CommandParser(
        prog="python -m runtime devices",
        description="List the execution providers, the devices that each sees, what provider auto takes for which bundle, and\n"
        "what to install for the others.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    as_json = parser.parse_args(arguments).json
    found = survey()
    return json.dumps(found) if as_json else "\n".join(_lines(found))


def _examine(provider: Provider) -> Found:
    here = installed(provider)
    if here is None:
        # A provider without a package is listed only where it is installed
        return Found(provider.name, provider.key, False, install=remedy(provider) if _obtainable(provider) else None)
    if here == AZURE:
        return Found(provider.name, provider.key, True, "ONNX Runtime", (), REMOTE)
    if (incomplete := plugins.incomplete_build(here)) is not None:
        return Found(provider.name, provider.key, True, "ONNX Runtime", (), incomplete)
    if not here.is_plugin:
        return Found(provider.name, provider.key, True, "ONNX Runtime", _built_in_devices(provider))
    origin = plugins.origin(here) or "registered by this process"
    if here.module and (end := ended_process(here)) is not None:
        reinstall = f"`pip install --force-reinstall --no-deps {' '.join(plugins.installed_packages(here))}`"
        problem = f"the library of {origin} ends the process that loads it ({end}): {reinstall}, or uninstall it"
        return Found(provider.name, provider.key, True, origin, (), problem)
    try:
        devices = tuple(map(_shown, plugins.devices(here)))
    except ProviderError as error:
        return Found(provider.name, provider.key, True, origin, (), str(error).removeprefix(f"provider {provider.name}: "))
    advice = "" if devices else plugins.no_device_advice(here)
    return Found(provider.name, provider.key, True, origin, devices, f"{origin} sees no device{advice}" if advice else None)


def _obtainable(provider: Provider) -> bool:
    return provider in KNOWN or bool(provider.package)


def _built_in_devices(provider: Provider) -> tuple[str, ...] | None:
    if provider is CPU:
        names = [line.partition(":")[2].strip() for line in processor().splitlines() if line.startswith("model name")]
        return (names[0] if names else "CPU",)
    if provider.key in ON_NVIDIA:
        return gpus()
    if provider is OPENVINO:
        return openvino_devices()
    own = tuple(_shown(each) for each in plugins.ep_devices() if each.ep_name == provider.key)
    return own or None


def _shown(device: Any) -> str:
    """Return the name of a device and its description, which may be empty."""
    return ": ".join(filter(None, plugins.described(device)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"ONNX Runtime {found['onnxruntime']} ({', '.join(found['packages']) or 'of unknown origin'})"
    yield f"auto takes {_preferred(found['auto'])}"
    yield from (f"  for {kind} bundles: {_preferred(names)}" for kind, names in found["auto_otherwise"].items())
    yield from (f"problem: {problem}" for problem in found["problems"])
    threads = found["cpu"]["threads"]
    yield f"CPU threads by default: {threads or 'those of ONNX Runtime'} ({found['cpu']['limits']})"
    width = max(len(each["name"]) for each in found["providers"])
    yield ""
    yield from (f"{each['name']:<{width}}  {_state(each)}" for each in found["providers"] if each["installed"])
    yield ""
    yield "not installed:"
    yield from (f"{each['name']:<{width}}  {each['install']}" for each in found["providers"] if not each["installed"])


def _preferred(names: Sequence[str]) -> str:
    return ", else ".join(names)


def _state(provider: dict[str, Any]) -> str:
    if provider["problem"]:
        return str(provider["problem"])
    devices = provider["devices"]
    seen = "devices are found when a bundle is loaded" if devices is None else ", ".join(devices) or "sees no device"
    return f"{seen} ({provider['origin']})"
