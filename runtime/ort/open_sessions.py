"""Opening of a bundle: ONNX Runtime sessions on the requested execution provider."""

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from runtime.bundle import BoundFolder, Manifest
from runtime.errors import BundleError, InputError, ProviderError
from runtime.options import Options
from runtime.ort import plugins
from runtime.ort.cache_folder import cache_folder
from runtime.ort.cpu import saturates, with_threads
from runtime.ort.cuda_graphs import CapturedGraphs
from runtime.ort.find_compiled import CompiledGraphs, find_compiled
from runtime.ort.forks import PerProcess
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, Provider
from runtime.ort.lazy_sessions import Make, OnDemandSessions, PackedSessions, open_packed
from runtime.ort.node_counts import example_feeds
from runtime.ort.open_bundle import OpenBundle
from runtime.ort.plugins import failure, reason_of
from runtime.ort.probe import ProbeCheck, ProbeError
from runtime.ort.provider_options import with_device
from runtime.ort.providers import resolve
from runtime.ort.session import create_session, guarded, is_routed, names_of_inputs

_LOGGER: Final = logging.getLogger("runtime.providers")


def open_sessions(
    files: BoundFolder,
    manifest: Manifest,
    graphs: Sequence[str],
    provider: str = "auto",
    options: Options | None = None,
    check: Callable[[str, Any], None] | None = None,
    probe: bool | None = False,
    slots: Mapping[str, int] = MappingProxyType({}),
) -> OpenBundle:
    """Open the sessions of a bundle's graphs.

    On the CPU provider, several graphs (or one graph with a cache) share one copy of their packed weights, see
    `Options.share_weights`. Without a cache, only the first graph is opened immediately.

    Args:
        files: files of the bundle, bound to their hashes.
        manifest: manifest of the bundle.
        graphs: file names of the graphs.
        provider: name of the execution provider; "auto" selects the best one that works.
        options: session options.
        check: function that receives the file name and the session of every graph that is opened, and may raise.
        probe: compare every graph with its probe when it is opened; None for all providers except the CPU's, with which the
            export was verified.
        slots: file name of a graph with slots -> number of its slots, of all groups.

    Returns:
        The open sessions, all on one provider.

    Raises:
        BundleError: ONNX Runtime cannot load a graph, or `check` raised it.
        ProviderError: the provider that was requested by name cannot run a graph, or computes other logits than those of the
            probe. "auto" tries the next provider instead; after a difference, that one is compared with the probe too, even
            the CPU, unless `probe` is False.
        InputError: the cache folder or an option cannot be used.
    """
    options = Options() if options is None else options
    if str(provider).lower() == "auto" and options.provider_options:
        raise InputError("options.provider_options: they belong to one provider: name it, such as provider='openvino'")
    candidates = resolve(provider, manifest)
    warn_overlaid()
    options = with_threads(options, options.progress)
    _check_products(files, manifest)

    opening = _Opening(files, manifest, tuple(graphs), options, check, probe, slots)
    for candidate, following in itertools.pairwise(candidates):  # only "auto" gives several; one that does not work is skipped
        try:
            return opening.on(candidate)
        except ProviderError as error:
            checked = ""
            if isinstance(error, ProbeError):
                # Not that provider may be wrong, but the bundle: the next one, also the CPU, is compared with the probe
                opening, checked = replace(opening, probe=True), ", which is compared with the probe too"
            options.progress(f"{error}; auto goes on with {following.name}{checked}")
    return opening.on(candidates[-1])


@functools.cache  # once per process
def warn_overlaid() -> None:
    """Log a warning if builds of ONNX Runtime overwrite each other's files: what works may be a mixture of both."""
    if (message := plugins.overlaid()) is not None:
        _LOGGER.warning("ONNX Runtime: %s", message)


@dataclass(frozen=True, eq=False)
class _Opening:
    """The arguments of `open_sessions`, with which a forked process opens its own sessions.

    Not a function within a function: one that refers to itself is a cycle, which would keep the files of a predictor open until
    the garbage collector runs.
    """

    files: BoundFolder
    manifest: Manifest
    graphs: tuple[str, ...]
    options: Options
    check: Callable[[str, Any], None] | None
    probe: bool | None
    slots: Mapping[str, int]

    def on(self, provider: Provider) -> OpenBundle:
        """Open the sessions on one provider, from compiled graphs of the bundle where they fit."""
        own = replace(self, options=with_device(provider, self.options))
        compiled = find_compiled(self.files, self.manifest, provider, own.options)
        try:
            return own._opened(provider, compiled)
        except ProbeError as error:
            if compiled is None or not compiled.opened:
                raise
            self.options.progress(f"{compiled.folder.shown}: its graphs are not used: {error}")
            return own._opened(provider, None)

    def _opened(self, provider: Provider, compiled: CompiledGraphs | None) -> OpenBundle:
        files, manifest, options, check = self.files, self.manifest, self.options, self.check
        is_compared = self.probe or (self.probe is None and provider is not CPU)
        probes = ProbeCheck(files, manifest, provider, options, self.slots) if is_compared else None
        late = set(self.graphs) - manifest.whole_graphs

        def make(graph: str, file: GraphFile, packed: bool) -> Any:
            session = None if compiled is None else _open_compiled(compiled, graph, provider, manifest, options, check)
            if session is None:
                session = create_session(file, provider, manifest, options, packed)
                if check is not None:
                    check(graph, session)
            if probes is not None and (provider is CPU or graph in late):  # the CPU opens all but the first graph later
                probes.check(graph, guarded(session.run, provider), names_of_inputs(session))
            return session

        found = {graph: GraphFile(files, graph, is_routed(graph, manifest)) for graph in self.graphs}
        sessions = _on_cpu(found, make, manifest, options) if provider is CPU else OnDemandSessions(found, late, make)
        captured = _captured(sessions, provider, manifest, options)
        again = PerProcess(functools.partial(self.on, provider)) if _works_in_forks(provider, options) else None
        device, threads = options.cuda.device, options.threads
        bundle = OpenBundle(provider, sessions, files, captured, device, threads, forked=again, slots=self.slots)
        if probes is not None and provider is not CPU:
            for graph in self.graphs:
                if graph not in late:
                    probes.check(graph, functools.partial(bundle.run, graph))
        return bundle


def _works_in_forks(provider: Provider, options: Options) -> bool:
    """Return whether sessions can be opened in a fork of a process that uses the provider: the drivers of GPUs cannot."""
    return provider is CPU or (provider.key == OPENVINO.key and options.openvino.device == "CPU")


def _check_products(files: BoundFolder, manifest: Manifest) -> None:
    """Refuse an int8 bundle on a processor that would silently compute other numbers.

    `session.x64quantprecision` is no remedy: with it, ONNX Runtime 1.24.1 returned wrong numbers in a test, 1.32 right ones.
    """
    proven = all(variant.fits_int16 for variant in manifest.variants)
    if manifest.precision == "int8" and not proven and saturates():
        raise BundleError(
            f"{files.path}: this int8 bundle of an earlier version needs a processor with VNNI, and this one has AVX2 without "
            "it: sums of two products would be cut off at 16 bits; export it again, which writes weights for every processor"
        )


def _on_cpu(graphs: Mapping[str, GraphFile], make: Make, manifest: Manifest, options: Options) -> Mapping[str, Any]:
    if options.cache is None or not options.share_weights:
        return PackedSessions(graphs, make, options, example_feeds(manifest))
    files = next(iter(graphs.values())).files
    # Weights packed from files whose hashes were not compared must not be used for a bundle whose hashes were.
    settings = repr(sorted(options.session_config.items())) if options.session_config else ""
    place = cache_folder(options.cache, manifest, "packed", settings + ("" if files.contents else "unverified"))
    try:
        return open_packed(graphs, place, make, options)
    except OSError as error:
        raise InputError(f"options.cache: {place}: {error.strerror}; make room or give another folder") from error


def _captured(
    sessions: Mapping[str, Any], provider: Provider, manifest: Manifest, options: Options
) -> dict[str, CapturedGraphs]:
    if provider is not CUDA or not (shapes := options.cuda.graphs):
        return {}
    found = {
        graph: CapturedGraphs(sessions[graph], shapes, "cuda", options.cuda.device)
        for graph in sorted(manifest.main_graphs)
        if graph in sessions
    }
    for graph, own in found.items():
        try:
            own.capture(functools.partial(example_feeds, manifest))
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise ProviderError(failure(provider, f"no CUDA graph of {graph}: {reason_of(error)}")) from error
    return found


def _open_compiled(
    compiled: CompiledGraphs,
    graph: str,
    provider: Provider,
    manifest: Manifest,
    options: Options,
    check: Callable[[str, Any], None] | None,
) -> Any | None:
    """Open a compiled graph; None if it was not compiled, is another graph, or the provider does not take it.

    A message says why.
    """
    if (file := compiled.file(graph)) is None:
        return None
    try:
        session = create_session(replace(file, routed=is_routed(graph, manifest)), provider, manifest, options)
        if check is not None:
            check(graph, session)
    except (BundleError, ProviderError) as error:
        options.progress(f"{compiled.folder.shown}: {graph} is not used: {error}")
        return None
    compiled.opened.add(graph)
    options.progress(f"provider {provider.name}: {graph} opened from {compiled.folder.shown}, without a build")
    return session
