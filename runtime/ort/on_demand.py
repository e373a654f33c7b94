"""Sessions of which some are opened on the first access."""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from runtime.ort.graph_file import GraphFile
from runtime.ort.lazy_sessions import GraphSessions


class OnDemandSessions(GraphSessions):
    """Thread-safe mapping from the file name of a graph to its session, for providers whose sessions share no weights.

    The graphs of a trunk and of branches have the weights of the graph of all tasks once more on the device. They are opened
    when they are used.
    """

    def __init__(
        self, graphs: Mapping[str, GraphFile], late: Collection[str], make: Callable[[str, GraphFile, bool], Any]
    ) -> None:
        """Open all graphs but those of `late`, which are opened on the first access; `make` as for `LazySessions`."""
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
