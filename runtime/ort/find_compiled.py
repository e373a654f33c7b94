"""Graphs that a provider compiled ahead of time: found in a bundle, compared with this machine, and opened without a build."""

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from runtime.bundle import BoundFolder, Manifest
from runtime.bundle.compiled_entry import COMPILED, CompiledEntry, Machine
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort import plugins
from runtime.ort.cpu import processor
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, OPENVINO, Provider
from runtime.ort.provider_options import LOAD_CONFIG, session_providers


def this_machine(provider: Provider, manifest: Manifest, options: Options) -> Machine:
    """Return what graphs compiled here depend on.

    Args:
        provider: the provider.
        manifest: manifest of the bundle.
        options: session options.

    Raises:
        InputError: an option cannot be used.
        ProviderError: a plug-in cannot be registered, or does not see the device.
    """
    requested = session_providers(provider, replace(options, cache=None), manifest, graphs=False)
    device = ": ".join(plugins.described(plugins.select(provider, options)[0])) if provider.is_plugin else ""
    return Machine(
        provider=provider.key,
        package=plugins.origin(provider) if provider.is_plugin else "",
        onnxruntime=ort.__version__,
        device=device,
        processor=f"{platform.machine()} {hashlib.sha256(processor().encode()).hexdigest()[:16]}",
        settings=dict(_single(requested[0][1])),
        session=dict(options.session_config),
    )


def folder_name(provider: Provider, options: Options) -> str:
    """Return the start of the name of the folder for the graphs of a provider and device, such as "openvino-cpu"."""
    device = options.openvino.device if provider.key == OPENVINO.key else str(options.cuda.device)
    return "".join(each if each.isalnum() else "-" for each in f"{provider.name}-{device}".lower())


def holds_code(provider: Provider, options: Options) -> bool:
    """Whether compiled graphs of a provider can contain instructions for the device: not those of OpenVINO for the CPU."""
    return not (provider.key == OPENVINO.key and options.openvino.device == "CPU")


@dataclass(frozen=True, eq=False)
class CompiledGraphs:
    """Compiled graphs of a bundle that fit this machine.

    Attributes:
        folder: their folder, in which all files are bound.
        entry: their record.
        opened: file names of the graphs that were opened from here.
    """

    folder: BoundFolder
    entry: CompiledEntry
    opened: set[str] = field(default_factory=set)

    def file(self, graph: str) -> GraphFile | None:
        """Return the compiled graph of a graph of the bundle; None for a graph that was not compiled."""
        found = self.entry.graphs.get(graph)
        return None if found is None else GraphFile(self.folder, found.file, compiled=True)


def find_compiled(files: BoundFolder, manifest: Manifest, provider: Provider, options: Options) -> CompiledGraphs | None:
    """Find the compiled graphs of a bundle for a provider.

    Graphs that do not fit are named in a progress message, with the reason: the caller builds them as usual.

    Args:
        files: files of the bundle, bound to their hashes.
        manifest: manifest of the bundle.
        provider: the provider.
        options: session options.

    Returns:
        The compiled graphs; None if there are none that fit.

    Raises:
        InputError: an option cannot be used.
        ProviderError: a plug-in cannot be registered, or does not see the device.
    """
    names = [] if provider is CPU or options.compiled is False else compiled_folders(files, provider, options)
    for name in names:
        if options.compiled is None and holds_code(provider, options):
            _ignored(options, name, "they can contain code for the device: options.compiled=on, if you trust the bundle")
        elif (found := _fitting(files, manifest, name, this_machine(provider, manifest, options), options)) is not None:
            return found
    return None


def compiled_folders(files: BoundFolder, provider: Provider, options: Options) -> list[str]:
    """Return the names of the folders for the graphs of a provider and device: one, or more if someone has copied some."""
    return [each for each in files.folders(COMPILED) if re.fullmatch(f"{folder_name(provider, options)}-[0-9a-f]{{12}}", each)]


def _fitting(files: BoundFolder, manifest: Manifest, name: str, here: Machine, options: Options) -> CompiledGraphs | None:
    """Open a folder of compiled graphs; None if they do not fit, as a message says."""
    try:
        folder = files.subfolder(f"{COMPILED}/{name}")
        entry = CompiledEntry.read(folder)
        if reasons := [*entry.machine.differences(here), *_outdated(entry, manifest.files)]:
            _ignored(options, name, f"compiled for {'; '.join(reasons)}; compile them again")
            return None
        folder.bind(entry.files, contents=files.contents)
    except (OSError, BundleError) as error:
        _ignored(options, name, f"{error}")
        return None
    return CompiledGraphs(folder, entry)


def _outdated(entry: CompiledEntry, hashes: Mapping[str, str]) -> list[str]:
    changed = {name for each in entry.graphs.values() for name, sha256 in each.sources.items() if hashes.get(name) != sha256}
    return [f"another {', '.join(sorted(changed))}"] if changed else []


def _ignored(options: Options, name: str, reason: str) -> None:
    options.progress(f"{COMPILED}/{name}: its graphs are not used: {' '.join(reason.split())}")


def _single(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The options of a provider, with those of OpenVINO's devices one by one."""
    for name, value in settings.items():
        if name != LOAD_CONFIG:
            yield name, value
            continue
        for device, properties in json.loads(value).items():
            yield from ((f"{device}.{key}", str(each)) for key, each in properties.items())
