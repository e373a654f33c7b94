"""Opening of a bundle: ONNX Runtime sessions on the requested execution provider."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from runtime.bundle import BoundFolder, Manifest, slots_file
from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError, BundleError, CancelledError, InputError, ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.cache_folder import cache_folder
from runtime.ort.compiled import CompiledGraphs, find_compiled
from runtime.ort.cpu_info import saturates
from runtime.ort.cpu_limits import with_threads
from runtime.ort.cuda_graphs import CapturedGraphs
from runtime.ort.device_lock import DEVICE_LOCK
from runtime.ort.empty_tensors import runs_empty_attention
from runtime.ort.forks import PerProcess, keep_open_in_forks
from runtime.ort.graph_file import GraphFile, load_failure
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider, short_name
from runtime.ort.lazy_sessions import LazySessions, Make, open_packed
from runtime.ort.node_counts import count_nodes, example_feeds
from runtime.ort.on_demand import OnDemandSessions
from runtime.ort.plugins import failure
from runtime.ort.probe import ProbeCheck, ProbeError, ProbeRow
from runtime.ort.progress import announced
from runtime.ort.provider_options import request
from runtime.ort.providers import resolve

_ERRORS_ONLY = 3  # log severity of ONNX Runtime; its warnings concern internal optimizations
_BY_PATH = (TENSORRT.key, TENSORRT_RTX.key)  # read external data themselves, relative to the path of the graph
_ON_CUDA = (CUDA.key, TENSORRT.key, TENSORRT_RTX.key)  # must not allocate while a CUDA graph is captured


# Providers whose sessions can be opened in a fork of a process that uses them: the drivers of GPUs cannot be used there
_FORKED = (CPU.key, OPENVINO.key)


@dataclass(frozen=True, eq=False)
class OpenBundle:
    """Open sessions of a bundle, all on one provider.

    A process that was forked from the one that opened them opens its own when it first needs them.

    Attributes:
        provider: execution provider of all sessions.
        sessions: file name of a graph -> its session.
        files: files of the bundle.
        captured: file name of a graph -> its CUDA graphs; empty without CUDA graphs.
        device: index of the GPU.
        threads: threads within one operator; None for the default of the provider.
        process: id of the process that opened the sessions.
        forked: opens the bundle again for a forked process; None if that is not supported.
    """

    provider: Provider
    sessions: Mapping[str, Any]
    files: BoundFolder
    captured: Mapping[str, CapturedGraphs] = field(default_factory=dict)
    device: int = 0
    threads: int | None = None
    process: int = field(default_factory=os.getpid)
    forked: PerProcess["OpenBundle"] | None = None

    def __post_init__(self) -> None:
        """Register the sessions, which must stay open in forked processes."""
        keep_open_in_forks(self)

    def opened(self) -> list[Any]:
        """Return the sessions that are open."""
        return self.sessions.opened() if isinstance(self.sessions, LazySessions) else list(self.sessions.values())

    def run(
        self,
        graph: str,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[Any]],
        cancel: Cancellation | None = None,
        weights: Mapping[str, Any] = MappingProxyType({}),
    ) -> Sequence[npt.NDArray[Any]]:
        """Run a graph; feeds with a captured shape use a CUDA graph.

        Args:
            graph: file name of the graph.
            outputs: names of the outputs to return.
            feeds: checked inputs.
            cancel: handle that can cancel the run from another thread.
            weights: further inputs, arrays or OrtValues, which messages do not list.

        Returns:
            The named outputs on the host.

        Raises:
            AdapterDropError: the run failed, or this is a forked process in which the provider cannot be used; BundleError if
                ONNX Runtime cannot open the graph.
            CancelledError: the run was cancelled through `cancel`.
        """
        if (here := self.here()) is not self:
            return here.run(graph, outputs, feeds, cancel)
        run = self._run_of(graph)
        try:
            given = {**feeds, **weights} if weights else feeds
            if cancel is None:
                return run(outputs, given)
            with cancel.run_options() as options:
                return run(outputs, given, options)
        except CancelledError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed on {shapes}: {error}") from error

    def run_on_device(self, graph: str, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Run a graph and leave the outputs on the device of its session.

        Args:
            graph: file name of the graph.
            outputs: names of the outputs to return.
            feeds: checked inputs on the host.

        Returns:
            The named outputs as OrtValues.

        Raises:
            AdapterDropError: as for `run`.
        """
        if (here := self.here()) is not self:
            return here.run_on_device(graph, outputs, feeds)
        device, index = ("cuda", self.device) if self._on_gpu else ("cpu", 0)
        try:
            if graph in self.captured:
                return self.captured[graph].run_on_device(outputs, feeds)
            session = self.sessions[graph]
            binding = session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                binding.bind_output(name, device, index)
            self._guarded(session.run_with_iobinding)(binding)
            return list(binding.get_outputs())
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed: {error}") from error

    def _run_of(self, graph: str) -> Callable[..., Sequence[npt.NDArray[Any]]]:
        if graph in self.captured:
            return self.captured[graph].run
        return self._guarded(self.sessions[graph].run)

    def _guarded(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return `run`, which on a GPU waits while a CUDA graph is captured."""
        return DEVICE_LOCK.during(run) if self.provider.key in _ON_CUDA else run

    @property
    def _on_gpu(self) -> bool:
        return self.provider in (CUDA, TENSORRT)

    def here(self) -> "OpenBundle":
        """Return the open sessions of this process: these, or in a forked process its own, which are opened first.

        CPU sessions of one thread work in forked processes as they are, and share their pages with the parent.

        Raises:
            AdapterDropError: this is a fork of the process that opened the sessions, and the provider cannot be used in it.
            BundleError: as for `open_sessions`.
            ProviderError: as for `open_sessions`.
        """
        if os.getpid() == self.process or (self.provider is CPU and self.threads == 1):
            return self
        if self.forked is None or self.provider.key not in _FORKED:
            raise AdapterDropError(
                f"this predictor was loaded in process {self.process} and is used in process {os.getpid()}, a fork of it, in "
                f"which provider {self.provider.name} cannot be used: start workers with the method spawn, to which a "
                "predictor can be passed, or call runtime.load() only after the fork"
            )
        return self.forked.get()

    def prepare(self) -> None:
        """Open the sessions of all graphs. Raises BundleError if ONNX Runtime cannot open one."""
        sessions = self.here().sessions
        for graph in sessions:
            sessions[graph]

    def verify(self, manifest: Manifest, options: Options) -> tuple[ProbeRow, ...]:
        """Open all graphs and compare them with their probes, as `ProbeCheck.check` does."""
        probes = ProbeCheck(self.files, manifest, self.provider, options)
        graphs = [graph for graph in self.sessions if graph in manifest.whole_graphs]
        return tuple(row for graph in graphs for row in probes.check(graph, functools.partial(self.run, graph)))

    def node_counts(self, graph: str, manifest: Manifest, options: Options) -> dict[str, int]:
        """Return provider name -> number of nodes in one run of a graph, from a profile of ONNX Runtime."""
        options = replace(options, threads=self.threads)
        settings = session_options(self.provider, options, packed=False)
        providers = request(settings, self.provider, options, manifest, graphs=False)
        file = GraphFile(self.files, graph, _is_routed(graph, manifest))
        return count_nodes(file, providers, settings, example_feeds(manifest), self.provider.key in _BY_PATH)


def open_sessions(
    files: BoundFolder,
    manifest: Manifest,
    graphs: Sequence[str],
    provider: str = "auto",
    options: Options | None = None,
    check: Callable[[str, Any], None] | None = None,
    probe: bool | None = False,
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

    Returns:
        The open sessions, all on one provider.

    Raises:
        BundleError: ONNX Runtime cannot load a graph, or `check` raised it.
        ProviderError: the provider that was requested by name cannot run a graph, or computes other logits than those of the
            probe. "auto" tries the next provider instead.
        InputError: the cache folder or an option cannot be used.
    """
    options = Options() if options is None else options
    if str(provider).lower() == "auto" and options.provider_options:
        raise InputError("options.provider_options: they belong to one provider: name it, such as provider='openvino'")
    *optional, last = resolve(provider, manifest)
    options = with_threads(options, options.progress)
    _check_products(files, manifest)

    opening = _Opening(files, manifest, tuple(graphs), options, check, probe)
    for candidate in optional:  # only "auto" gives several providers; one that does not work is skipped
        try:
            return opening.on(candidate)
        except ProbeError as error:
            options.progress(f"{error}; auto goes on")
        except ProviderError:
            continue
    return opening.on(last)


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

    def on(self, provider: Provider) -> OpenBundle:
        """Open the sessions on one provider, from compiled graphs of the bundle where they fit."""
        compiled = find_compiled(self.files, self.manifest, provider, self.options)
        try:
            return self._opened(provider, compiled)
        except ProbeError as error:
            if compiled is None or not compiled.opened:
                raise
            self.options.progress(f"{compiled.folder.shown}: its graphs are not used: {error}")
            return self._opened(provider, None)

    def _opened(self, provider: Provider, compiled: CompiledGraphs | None) -> OpenBundle:
        files, manifest, options, check = self.files, self.manifest, self.options, self.check
        is_compared = self.probe or (self.probe is None and provider is not CPU)
        probes = ProbeCheck(files, manifest, provider, options) if is_compared else None
        late = set(self.graphs) - manifest.whole_graphs

        def make(graph: str, file: GraphFile, packed: bool) -> Any:
            session = None if compiled is None else _open_compiled(compiled, graph, provider, manifest, options)
            if session is None:
                session = create_session(file, provider, manifest, options, packed)
            if check is not None:
                check(graph, session)
            if probes is not None and provider is CPU and graph not in late:  # which opens graphs later as well
                probes.check(graph, session.run)
            return session

        found = {graph: GraphFile(files, graph, _is_routed(graph, manifest)) for graph in self.graphs}
        sessions = _on_cpu(found, make, manifest, options) if provider is CPU else OnDemandSessions(found, late, make)
        captured = _captured(sessions, provider, manifest, options)
        again = PerProcess(functools.partial(self.on, provider))
        bundle = OpenBundle(provider, sessions, files, captured, options.cuda.device, options.threads, forked=again)
        if probes is not None and provider is not CPU:
            for graph in self.graphs:
                if graph not in late:  # the others are opened when they are used, and have the same operators
                    probes.check(graph, functools.partial(bundle.run, graph))
        return bundle


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
        return LazySessions(graphs, make, options, example_feeds(manifest))
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
        variant.model: CapturedGraphs(sessions[variant.model], shapes, "cuda", options.cuda.device)
        for variant in manifest.variants
        if variant.model in sessions
    }
    for graph, own in found.items():
        try:
            own.capture(functools.partial(example_feeds, manifest))
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise ProviderError(failure(provider, f"no CUDA graph of {graph}: {error}")) from error
    return found


def _is_routed(graph: str, manifest: Manifest) -> bool:
    """Return whether a graph selects rows by their values; the shapes in all others follow from those of the inputs."""
    return graph in {name for variant in manifest.variants for name in (variant.routed, slots_file(variant.model))}


def _open_compiled(
    compiled: CompiledGraphs, graph: str, provider: Provider, manifest: Manifest, options: Options
) -> Any | None:
    """Open a compiled graph; None if it was not compiled, or the provider does not take it, as a message says."""
    if (file := compiled.file(graph)) is None:
        return None
    try:
        session = create_session(replace(file, routed=_is_routed(graph, manifest)), provider, manifest, options)
    except (BundleError, ProviderError) as error:
        options.progress(f"{compiled.folder.shown}: {graph} is not used: {error}")
        return None
    compiled.opened.add(graph)
    options.progress(f"provider {provider.name}: {graph} opened from {compiled.folder.shown}, without a build")
    return session


def create_session(graph: GraphFile, provider: Provider, manifest: Manifest, options: Options, packed: bool = False) -> Any:
    """Create the session of a graph on a provider.

    Args:
        graph: the graph.
        provider: the provider.
        manifest: manifest of the bundle.
        options: session options.
        packed: whether the graph was saved with packed weights.

    Raises:
        BundleError: the graph cannot be loaded.
        ProviderError: the provider does not work.
    """
    if graph.routed and provider is CPU and manifest.target == "cpu" and not runs_empty_attention():
        raise BundleError(
            f"{graph.path}: ONNX Runtime {ort.__version__} ends the process when no row selects one of the structures in this "
            "routed graph; install ONNX Runtime 1.30 or newer, or export it with `--target portable`"
        )
    settings = session_options(provider, options, packed)
    if provider in (CUDA, TENSORRT) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(cuda=True, cudnn=True)  # libraries installed by pip; those of the system are found anyway
    try:
        # An engine build takes minutes
        with announced(f"provider {provider.name}: preparing {graph.name}", options.progress):
            providers = request(settings, provider, options, manifest, graphs=not graph.routed)
            opened = DEVICE_LOCK.during(graph.session) if provider.key in _ON_CUDA else graph.session
            # Compiled data is found relative to the path of its graph
            session = opened(settings, providers, provider.key in _BY_PATH or graph.compiled)
    except AdapterDropError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        if provider is CPU:
            raise BundleError(f"{graph.path}: {load_failure(error)}") from error
        raise ProviderError(failure(provider, str(error))) from error
    # ONNX Runtime drops a provider whose libraries are missing, without an exception
    if (found := short_name(session.get_providers()[0])) != provider.name:
        raise ProviderError(failure(provider, f"ONNX Runtime fell back to {found}"))
    return session


def session_options(provider: Provider, options: Options, packed: bool) -> Any:
    """Return the SessionOptions for a provider; `packed` for a graph that was saved with packed weights."""
    found = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    # OpenVINO optimizes graphs itself and supports only standard operators
    plain = packed or provider.key == OPENVINO.key
    found.graph_optimization_level = levels.ORT_DISABLE_ALL if plain else levels.ORT_ENABLE_ALL
    found.log_severity_level = _ERRORS_ONLY
    if options.threads is not None:
        found.intra_op_num_threads = options.threads
    if not options.spin:
        found.add_session_config_entry("session.intra_op.allow_spinning", "0")
        found.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if provider is CPU:
        _shared_arena(options.memory_limit)
        found.add_session_config_entry("session.use_env_allocators", "1")
    for name, value in options.session_config.items():
        found.add_session_config_entry(name, value)
    return found


@functools.cache
def _shared_arena(limit: int | None) -> None:
    """Register one CPU arena for all sessions, so that variants share the memory for activations."""
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {"arena_extend_strategy": 1}  # same as requested; the default doubles the arena whenever it grows
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(settings | ({} if limit is None else {"max_mem": limit})))
