"""ONNX Runtime sessions for a bundle that run on the provider they were asked for."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.bundle import Manifest
from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError, BundleError, CancelledError, InputError, ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.cache_folder import cache_folder
from runtime.ort.cuda_graphs import CapturedGraphs, plain_run
from runtime.ort.lazy_sessions import LazySessions, Make, open_packed, unloadable
from runtime.ort.node_counts import count_nodes, example_feeds
from runtime.ort.progress import announced
from runtime.ort.providers import CPU, CUDA, OPENVINO, TENSORRT, Provider, requests, resolve, short_name

_ERRORS_ONLY = 3  # ONNX Runtime's log severity; its warnings are about its own optimisations


@dataclass(frozen=True)
class OpenBundle:
    """Sessions of the graphs in a bundle's `folder`, by file name, all on one provider."""

    provider: Provider
    sessions: Mapping[str, Any]
    folder: Path
    captured: Mapping[str, CapturedGraphs] = field(default_factory=dict)
    device: int = 0

    def run(
        self,
        graph: str,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[Any]],
        cancel: Cancellation | None = None,
    ) -> Sequence[npt.NDArray[Any]]:
        """The named outputs of that graph, through a CUDA graph where the feeds have one of its shapes.

        Raises:
            AdapterDropError: ONNX Runtime failed; BundleError where it is the graph that it cannot open.
            CancelledError: by `cancel`.
        """
        session = self.sessions[graph]
        try:
            if graph in self.captured:  # a replay has nothing to interrupt
                return self.captured[graph].run(outputs, feeds)
            if cancel is None:
                return session.run(outputs, feeds)  # type: ignore[no-any-return]
            with cancel.run_options() as options:
                return session.run(outputs, feeds, options)  # type: ignore[no-any-return]
        except CancelledError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed on {shapes}: {error}") from error

    def bound(self, graph: str, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """The named outputs as OrtValues on the session's device. Raises AdapterDropError where ONNX Runtime failed."""
        session = self.sessions[graph]
        device, index = ("cuda", self.device) if self.provider in (CUDA, TENSORRT) else ("cpu", 0)
        binding = session.io_binding()
        try:
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                binding.bind_output(name, device, index)
            session.run_with_iobinding(binding, plain_run())
            return list(binding.get_outputs())
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed: {error}") from error

    def node_counts(self, graph: str, manifest: Manifest, options: Options) -> dict[str, int]:
        """Provider -> nodes that it ran in one run of that graph, by ONNX Runtime's own record."""
        settings = _session_options(self.provider, options, packed=False)
        asked = requests(self.provider, options, manifest)
        return count_nodes(self.folder / graph, asked, settings, example_feeds(manifest))


def open_sessions(
    folder: Path,
    manifest: Manifest,
    graphs: Sequence[str],
    provider: str = "auto",
    options: Options | None = None,
    check: Callable[[str, Any], None] | None = None,
) -> OpenBundle:
    """Sessions of those graphs, named by their files, of the bundle in `folder`.

    On the CPU several graphs, or one where there is a cache, run over one copy of their packed weights
    (`Options.share_weights`), and without a cache only the first is opened here. `check` is given every session that is opened.

    Raises:
        BundleError: ONNX Runtime cannot load a graph; whatever `check` raises.
        ProviderError: the provider that was asked for by name cannot run it. "auto" goes on to the next one instead.
        InputError: the cache folder cannot be used.
    """
    options = Options() if options is None else options
    *optional, last = resolve(provider, manifest)

    def opened(provider: Provider) -> OpenBundle:
        def make(graph: str, path: Path, packed: bool) -> Any:
            session = _create(path, provider, manifest, options, packed)
            if check is not None:
                check(graph, session)
            return session

        paths = {graph: folder / graph for graph in graphs}
        sessions = _on_cpu(paths, make, manifest, options) if provider is CPU else _all(paths, make)
        return OpenBundle(provider, sessions, folder, _captured(sessions, provider, manifest, options), options.cuda.device)

    for candidate in optional:  # only "auto" has several, and what cannot run here is no error then
        try:
            return opened(candidate)
        except ProviderError:
            continue
    return opened(last)


def _all(graphs: Mapping[str, Path], make: Make) -> dict[str, Any]:
    return {graph: make(graph, path, False) for graph, path in graphs.items()}


def _on_cpu(graphs: Mapping[str, Path], make: Make, manifest: Manifest, options: Options) -> Mapping[str, Any]:
    if options.cache is None or not options.share_weights:
        return LazySessions(graphs, make, options, example_feeds(manifest))
    place = cache_folder(options.cache, manifest, "packed")
    try:
        return open_packed(graphs, place, make, options)
    except OSError as error:
        raise InputError(f"options.cache: {place}: {error.strerror}; make room or give another folder") from error


def _captured(
    sessions: Mapping[str, Any], provider: Provider, manifest: Manifest, options: Options
) -> dict[str, CapturedGraphs]:
    if provider is not CUDA or not (shapes := options.cuda.graphs):
        return {}
    # A routed graph has as many rows as each call asks for.
    routed = {variant.routed for variant in manifest.variants}
    return {
        graph: CapturedGraphs(session, shapes, "cuda", options.cuda.device)
        for graph, session in sessions.items()
        if graph not in routed
    }


def _create(path: Path, provider: Provider, manifest: Manifest, options: Options, packed: bool) -> Any:
    settings = _session_options(provider, options, packed)
    asked = requests(provider, options, manifest)
    if provider in (CUDA, TENSORRT) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(cuda=True, cudnn=True)  # those that pip installed; the system's are found anyway
    try:
        # An engine build takes minutes
        with announced(f"provider {provider.name}: preparing {path.name}", options.progress):
            # enable_fallback=0: ONNX Runtime would otherwise print, retry on the CPU and say no more
            session = ort.InferenceSession(str(path), settings, asked, enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but Exception
        if provider is CPU:
            raise BundleError(f"{path}: {unloadable(error)}") from error
        raise ProviderError(_failed(provider, str(error))) from error
    # A provider whose own libraries are missing is left out without an exception
    if (found := session.get_providers()[0]) != provider.key:
        raise ProviderError(_failed(provider, f"ONNX Runtime fell back to {short_name(found)}"))
    return session


def _session_options(provider: Provider, options: Options, packed: bool) -> Any:
    found = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    # OpenVINO does its own and knows standard operators only
    plain = packed or provider is OPENVINO
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
    return found


@functools.cache
def _shared_arena(limit: int | None) -> None:
    """One arena for all sessions on the CPU: variants do not each keep room for their activations."""
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {"arena_extend_strategy": 1}  # as requested: the other one doubles the arena at every growth
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(settings | ({} if limit is None else {"max_mem": limit})))


def _failed(provider: Provider, reason: str) -> str:
    return (
        f"provider {provider.name}: it is installed but does not work here: {reason}; see that the device, its driver and the "
        f"libraries that {provider.package} {ort.__version__} needs are there, or take provider cpu"
    )
