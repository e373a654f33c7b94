"""Sessions of a bundle's graphs that are opened on the first access, with or without one copy of the packed weights."""

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.bundle.scratch import scratch
from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.graph_file import GraphFile, load_failure
from runtime.ort.prepacked import packed_graphs
from runtime.ort.progress import announced

Make = Callable[[str, GraphFile, bool], Any]


class GraphSessions(Mapping[str, Any]):
    """Mapping from the file name of a graph to its session, which may be opened on the first access."""

    def __init__(self, graphs: Mapping[str, GraphFile]) -> None:
        """Set the graphs: file name -> graph."""
        self._graphs = graphs
        self._open: dict[str, Any] = {}

    def __contains__(self, graph: object) -> bool:
        """Whether the bundle has this graph, open or not."""
        return graph in self._graphs

    def __iter__(self) -> Iterator[str]:
        """Iterate over the file names of all graphs, open or not."""
        return iter(self._graphs)

    def __len__(self) -> int:
        """Return the number of graphs, open or not."""
        return len(self._graphs)

    def opened(self) -> list[Any]:
        """Return the sessions that are open, without opening another one."""
        return list(self._open.values())


class OnDemandSessions(GraphSessions):
    """Thread-safe mapping from the file name of a graph to its session, for providers whose sessions share no weights.

    The graphs of a trunk and of branches have the weights of the graph of all tasks once more on the device. They are opened
    when they are used.
    """

    def __init__(self, graphs: Mapping[str, GraphFile], late: Collection[str], make: Make) -> None:
        """Open all graphs but those of `late`, which are opened on the first access; `make` as for `PackedSessions`."""
        super().__init__(graphs)
        self._make = make
        self._lock = threading.Lock()
        self._open = {name: make(name, graph, False) for name, graph in graphs.items() if name not in late}

    def __getitem__(self, graph: str) -> Any:
        """Return the session of a graph; open the graph if necessary."""
        if graph not in self._open:
            with self._lock:
                if graph not in self._open:
                    self._open[graph] = self._make(graph, self._graphs[graph], False)
        return self._open[graph]


class PackedSessions(GraphSessions):
    """Thread-safe mapping from the file name of a graph to its session on the CPU.

    The first graph is opened immediately and packs its own weights, which takes negligible time. The first access to another
    graph packs the weights of all graphs into one file that all sessions read (`Options.share_weights`). This takes seconds
    for a large model; the caller waits, and calls of open graphs continue. The first session is then replaced, and its own
    packed weights are freed.
    """

    def __init__(
        self, graphs: Mapping[str, GraphFile], make: Make, options: Options, feeds: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Open the first graph, whose small, valid feeds are `feeds`.

        `make` is a function from name, graph and whether the graph is packed to a session, and may raise BundleError.
        """
        super().__init__(graphs)
        self._make, self._options, self._feeds = make, options, feeds
        self._share = options.share_weights and len(graphs) > 1
        self._locks: dict[int, threading.Lock] = {}  # by process: after a fork, no thread releases those of the parent
        first = next(iter(graphs))
        self._open = {first: make(first, graphs[first], False)}

    def __getitem__(self, graph: str) -> Any:
        """Return the session of a graph; open the graph if necessary."""
        sessions = self._open  # replaced as a whole, so that readers need no lock
        return sessions[graph] if graph in sessions else self._open_graph(graph)

    def _open_graph(self, graph: str) -> Any:
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if graph not in self._open and self._share:
                self._pack()
            if graph not in self._open:
                self._open = {**self._open, graph: self._make(graph, self._graphs[graph], False)}
            return self._open[graph]

    def _pack(self) -> None:
        try:
            # Mapped files stay readable after the folder is deleted; some systems keep the folder until they are unmapped
            with scratch(Path(tempfile.gettempdir()), "adapterdrop-packed-") as folder:
                self._open = open_packed(self._graphs, folder / "packed", self._make, self._options)
            shrink_arena(next(iter(self._open.values())), self._feeds)
            trim_heap()
        except (OSError, BundleError) as error:  # a graph that cannot be loaded at all is reported when it is opened
            reason = error.strerror if isinstance(error, OSError) else error
            self._options.progress(
                f"the graphs cannot share packed weights ({reason}): each session packs its own, which takes more memory"
            )
            self._share = False


def open_packed(graphs: Mapping[str, GraphFile], folder: Path, make: Make, options: Options) -> dict[str, Any]:
    """Open sessions of all graphs that share one copy of their packed weights, in a folder; `make` as for `PackedSessions`.

    Raises:
        OSError: there is no space or no permission.
        BundleError: ONNX Runtime cannot load a graph.
    """
    with announced("packing weights for this processor", options.progress):
        try:
            packed = packed_graphs(graphs, folder, options.session_config)
        except (OSError, BundleError):
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            names = ", ".join(str(graph.path) for graph in graphs.values())
            raise BundleError(f"{names}: {load_failure(error)}") from error
    return {name: make(name, graph, True) for name, graph in packed.items()}


def shrink_arena(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
    """Release unused memory of the arena that all sessions share; ONNX Runtime does this only after a run."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, feeds, options)


def trim_heap() -> None:
    """Return freed heap memory to the system if the C library is glibc; packing frees as much memory as one or two sessions."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
