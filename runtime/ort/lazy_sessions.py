"""The sessions of a bundle's graphs on the CPU: the first at once, the others when one of them is needed."""

import ctypes
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.errors import BundleError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.prepacked import packed_graphs
from runtime.ort.progress import announced

Make = Callable[[str, Path, bool], Any]


class LazySessions(Mapping[str, Any]):
    """File name of a graph -> its session. Many threads may ask at once.

    A graph that runs alone packs its own weights, which takes no time worth mentioning. When a second one is asked for, all are
    packed into one file that all then read (`Options.share_weights`): seconds for a large model, and the caller's to wait for,
    while calls of graphs that are open go on. The first session is then replaced, and its own weights are freed.

    `graphs`: file name -> path; `make`: name, path and whether the file is packed -> session, and BundleError where that fails;
    `feeds`: right for the first graph, and small.
    """

    def __init__(self, graphs: Mapping[str, Path], make: Make, options: Options, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        self._graphs, self._make, self._options, self._feeds = graphs, make, options, feeds
        self._share = options.share_weights and len(graphs) > 1
        self._lock = threading.Lock()
        first = next(iter(graphs))
        self._open = {first: make(first, graphs[first], False)}

    def __getitem__(self, graph: str) -> Any:
        opened = self._open  # replaced as a whole, so that nobody here has to wait
        return opened[graph] if graph in opened else self._opened(graph)

    def __contains__(self, graph: object) -> bool:
        return graph in self._graphs

    def __iter__(self) -> Iterator[str]:
        return iter(self._graphs)

    def __len__(self) -> int:
        return len(self._graphs)

    def _opened(self, graph: str) -> Any:
        path = self._graphs[graph]
        with self._lock:
            if graph not in self._open and self._share:
                self._pack()
            if graph not in self._open:
                self._open = {**self._open, graph: self._make(graph, path, False)}
            return self._open[graph]

    def _pack(self) -> None:
        try:
            # What is mapped stays readable when the folder is gone, but for systems that then keep the folder
            with tempfile.TemporaryDirectory(prefix="adapterdrop-packed-", ignore_cleanup_errors=True) as folder:
                self._open = open_packed(self._graphs, Path(folder), self._make, self._options)
            shrink_arena(next(iter(self._open.values())), self._feeds)
            trim_heap()
        except (OSError, BundleError) as error:  # a graph that does not load at all is named when it is opened by itself
            reason = error.strerror if isinstance(error, OSError) else error
            self._options.progress(f"the graphs cannot share packed weights ({reason}): each packs its own, which takes memory")
            self._share = False


def open_packed(graphs: Mapping[str, Path], folder: Path, make: Make, options: Options) -> dict[str, Any]:
    """Sessions of all `graphs` over one copy of their packed weights, kept in `folder`.

    Raises:
        OSError: no space or no permission.
        BundleError: ONNX Runtime cannot load a graph.
    """
    with announced("packing weights for this processor", options.progress):
        try:
            packed = packed_graphs(graphs, folder)
        except OSError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise BundleError(f"{', '.join(map(str, graphs.values()))}: {unloadable(error)}") from error
    return {graph: make(graph, path, True) for graph, path in packed.items()}


def shrink_arena(session: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
    """Gives back what nobody uses any more of the arena that all sessions share: it does that after a run alone."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, feeds, options)


def trim_heap() -> None:
    """Gives freed memory back to the system where glibc keeps it: packing frees as much as a session or two."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def unloadable(error: Exception) -> str:
    """Why a graph cannot be opened."""
    return f"ONNX Runtime {ort.__version__} cannot load it: {error}"
