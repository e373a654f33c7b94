"""The open sessions of a bundle, and the runs of its graphs."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import FIRST_TASKS, ROUTE_INPUTS, BoundFolder, Manifest
from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError, CancelledError
from runtime.options import Options
from runtime.ort.cuda_graphs import CapturedGraphs
from runtime.ort.forks import PerProcess, keep_open_in_forks
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, TENSORRT, Provider
from runtime.ort.lazy_sessions import GraphSessions
from runtime.ort.node_counts import count_nodes, example_feeds
from runtime.ort.probe import ProbeCheck, ProbeRow
from runtime.ort.provider_options import request, with_device
from runtime.ort.session import BY_PATH, guarded, is_routed, names_of_inputs, session_options

# Providers that compute tensors without rows
_TAKE_EMPTY: Final = frozenset({CPU.key, CUDA.key, OPENVINO.key})


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
        slots: file name of a graph with slots -> number of its slots, of all groups.
    """

    provider: Provider
    sessions: Mapping[str, Any]
    files: BoundFolder
    captured: Mapping[str, CapturedGraphs] = field(default_factory=dict)
    device: int = 0
    threads: int | None = None
    process: int = field(default_factory=os.getpid)
    forked: PerProcess["OpenBundle"] | None = None
    slots: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Register the sessions, which must stay open in forked processes."""
        keep_open_in_forks(self)

    def opened(self) -> list[Any]:
        """Return the sessions that are open."""
        return self.sessions.opened() if isinstance(self.sessions, GraphSessions) else list(self.sessions.values())

    def run(
        self,
        graph: str,
        outputs: Sequence[str],
        feeds: Mapping[str, npt.NDArray[Any]],
        cancel: Cancellation | None = None,
        weights: Mapping[str, Any] = MappingProxyType({}),
    ) -> Sequence[npt.NDArray[Any]]:
        """Run a graph, and return the named outputs on the host; feeds with a captured shape use a CUDA graph.

        Args:
            graph: file name of the graph.
            outputs: names of the outputs.
            feeds: checked inputs.
            cancel: handle that can cancel the run.
            weights: further inputs, arrays or OrtValues, which messages do not list.

        Raises:
            AdapterDropError: the run failed, or this is a forked process in which the provider cannot be used; BundleError if
                ONNX Runtime cannot open the graph.
            CancelledError: the run was cancelled through `cancel`.
        """
        if (here := self.here()) is not self:
            return here.run(graph, outputs, feeds, cancel, weights)
        run, count = self._run_of(graph), None
        try:
            given = {**feeds, **weights} if weights else feeds
            if self.provider.key not in _TAKE_EMPTY and (more := self._padded_routes(graph, feeds)):
                given, count = {**given, **more}, len(feeds[ROUTE_INPUTS[0]])
            if cancel is None:
                found = run(outputs, given)
            else:
                with cancel.run_options() as options:
                    found = run(outputs, given, options)
            return found if count is None else [each[:count] for each in found]
        except CancelledError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed on {shapes}: {error}") from error

    def _padded_routes(self, graph: str, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the ids with one more row for each group, for providers that fail on tensors without rows, as WebGPU."""
        if ROUTE_INPUTS[0] not in feeds:
            return {}
        metadata = self.sessions[graph].get_modelmeta().custom_metadata_map
        firsts = np.array(metadata.get(FIRST_TASKS, "").split(), np.int64)
        more = zip(ROUTE_INPUTS, (np.zeros_like(firsts), firsts), strict=True)
        return {name: np.concatenate([feeds[name], ids]) for name, ids in more if len(ids)}

    def run_on_device(self, graph: str, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Run a graph as `run` does, and leave the named outputs on the device of its session, as OrtValues.

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
            guarded(session.run_with_iobinding, self.provider)(binding)
            return list(binding.get_outputs())
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise AdapterDropError(f"ONNX Runtime ({self.provider.name}) failed: {error}") from error

    def _run_of(self, graph: str) -> Callable[..., Sequence[npt.NDArray[Any]]]:
        if graph in self.captured:
            return self.captured[graph].run
        return guarded(self.sessions[graph].run, self.provider)

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
        if self.forked is None:
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
        probes, here = ProbeCheck(self.files, manifest, self.provider, options, self.slots), self.here()
        return tuple(
            row
            for graph in here.sessions
            for row in probes.check(graph, functools.partial(here.run, graph), names_of_inputs(here.sessions[graph]))
        )

    def node_counts(self, graph: str, manifest: Manifest, options: Options) -> dict[str, int]:
        """Return provider name -> number of nodes in one run of a graph, from a profile of ONNX Runtime."""
        options = with_device(self.provider, replace(options, threads=self.threads))
        settings = session_options(self.provider, options, packed=False)
        providers = request(settings, self.provider, options, manifest, graphs=False)
        file = GraphFile(self.files, graph, is_routed(graph, manifest))
        return count_nodes(file, providers, settings, example_feeds(manifest), self.provider.key in BY_PATH)
