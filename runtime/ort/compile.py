"""Compile single graphs with a provider, compare each with its probe, and store them in the bundle."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from runtime.bundle import BoundFolder, Manifest, digest
from runtime.bundle.compiled_entry import COMPILED, RECORD, CompiledEntry, CompiledGraph, Machine
from runtime.bundle.file_names import flat_name
from runtime.bundle.scratch import scratch
from runtime.errors import AdapterDropError, InputError, ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.cpu import with_threads
from runtime.ort.external_data import is_compiled
from runtime.ort.find_compiled import CompiledGraphs, compiled_folders, folder_name, this_machine
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, Provider
from runtime.ort.plugins import failure, reason_of
from runtime.ort.probe import ProbeCheck
from runtime.ort.provider_options import request, with_device
from runtime.ort.session import create_session, names_of_inputs, session_options

_MAKING: Final = "making-"  # prefix of the folders of incomplete files


@dataclass(frozen=True)
class CompiledRow:
    """One graph after its compilation.

    Attributes:
        graph: file name of the graph.
        folder: folder of the compiled files; None for a graph of which the provider compiled no node.
        bytes: size of the compiled graph and its data.
        compile_seconds: duration of the compilation.
        open_seconds: duration of opening the compiled graph.
    """

    graph: str
    folder: Path | None
    bytes: int = 0
    compile_seconds: float = 0.0
    open_seconds: float = 0.0


def compile_graphs(
    files: BoundFolder,
    manifest: Manifest,
    graphs: Sequence[str],
    provider: Provider,
    options: Options,
    slots: Mapping[str, int] = MappingProxyType({}),
) -> list[CompiledRow]:
    """Compile graphs of a bundle for a provider, and compare them with their probes before they are kept.

    They are stored in `compiled/` of the bundle, in place of earlier ones for the same provider and device. The arguments are
    those of `open_sessions`.

    Raises:
        InputError: the provider is "cpu", or the bundle cannot be written.
        ProviderError: the provider does not work, cannot compile ahead of time, or computes other logits than the probe.
        BundleError: a file has changed.
    """
    if provider is CPU:
        raise InputError("provider cpu compiles nothing ahead of time: options.cache keeps the weights that it packs")
    if not hasattr(ort, "ModelCompiler"):
        raise ProviderError(f"provider {provider.name}: compilation needs ONNX Runtime 1.22 or newer, found {ort.__version__}")
    options = with_device(provider, with_threads(replace(options, cache=None), options.progress))
    root = files.path / COMPILED
    try:
        root.mkdir(exist_ok=True)
        with scratch(root, _MAKING) as making:
            (made := making / "made").mkdir()
            rows = [_compiled(files, graph, made, provider, manifest, options) for graph in graphs]
            if all(row.folder is None for row in rows):
                raise ProviderError(f"provider {provider.name}: it compiled no node of {', '.join(graphs)} ahead of time")
            _record(files, made, [row.graph for row in rows if row.folder], this_machine(provider, manifest, options))
            rows = _checked(ProbeCheck(files, manifest, provider, options, slots), made, rows)
            # OpenVINO keeps the data that it read from a path: other content must have another path
            place = root / f"{folder_name(provider, options)}-{digest(made / RECORD)[:12]}"
            earlier = making / "earlier"
            if place.exists():  # the same content, unless it was altered
                place.rename(earlier)
            try:
                made.rename(place)
            except OSError:
                if earlier.exists():
                    earlier.rename(place)
                raise
            for old in compiled_folders(files, provider, options):
                if old != place.name:
                    (root / old).rename(making / old)
    except OSError as error:
        raise InputError(f"{root}: cannot be written: {error.strerror or error}; make the bundle writable") from error
    finally:
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()
    return [replace(row, folder=row.folder and place) for row in rows]


def _compiled(
    files: BoundFolder, graph: str, folder: Path, provider: Provider, manifest: Manifest, options: Options
) -> CompiledRow:
    """Compile one graph into a folder."""
    GraphFile(files, graph).external_files()  # refuses files that are not listed
    settings = session_options(provider, options, packed=False)
    started = time.perf_counter()
    # A graph that keeps all its nodes is written with all its weights: into a folder from which it can be removed
    (own := folder / "one").mkdir()
    try:
        for key, entries in request(settings, provider, options, manifest, graphs=False) or ():
            settings.add_provider(key, entries)
        ort.ModelCompiler(settings, str(files.path / graph)).compile_to_file(str(own / flat_name(graph)))
    except AdapterDropError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise ProviderError(failure(provider, f"compilation of {graph}: {reason_of(error)}")) from error
    files.check(by_path=True)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in own.iterdir())
    if not is_compiled((own / flat_name(graph)).read_bytes()):
        shutil.rmtree(own)
        return CompiledRow(graph, None)
    for path in own.iterdir():
        path.rename(folder / path.name)
    own.rmdir()
    return CompiledRow(graph, folder, size, seconds)


def _record(files: BoundFolder, folder: Path, graphs: Sequence[str], machine: Machine) -> None:
    sources = {
        graph: {name: files.hashes[name] for name in (graph, *GraphFile(files, graph).external_files().values())}
        for graph in graphs
    }
    CompiledEntry(
        machine=machine,
        graphs={graph: CompiledGraph(file=flat_name(graph), sources=sources[graph]) for graph in graphs},
        files={path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != RECORD},
    ).write(folder)


def _unreadable(provider: Provider, graph: str, reason: BaseException) -> ProviderError:
    """Return the error for a provider that does not read what it wrote, as OpenVINO of onnxruntime-openvino 1.24.1 does."""
    return ProviderError(
        f"provider {provider.name}: it cannot open the compiled {graph} that it wrote ({reason_of(reason)}); nothing was kept: "
        f"load the bundle without compiled graphs, or install another version of {provider.package or 'the provider'}"
    )


def _checked(probes: ProbeCheck, folder: Path, rows: Sequence[CompiledRow]) -> list[CompiledRow]:
    """Open the compiled graphs as `load` will, and compare them."""
    bound = BoundFolder.open(folder)
    entry = CompiledEntry.read(bound)
    bound.bind(entry.files)
    compiled, found = CompiledGraphs(bound, entry), []
    for row in rows:
        if (file := compiled.file(row.graph)) is not None:
            started = time.perf_counter()
            try:
                session = create_session(file, probes.provider, probes.manifest, probes.options)
            except ProviderError as error:
                raise _unreadable(probes.provider, row.graph, error.__cause__ or error) from error
            row = replace(row, open_seconds=time.perf_counter() - started)
            probes.check(row.graph, session.run, names_of_inputs(session))
        found.append(row)
    return found
