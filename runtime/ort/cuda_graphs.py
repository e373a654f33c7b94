"""CUDA graphs for a few fixed input shapes: captured once, then replayed."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.import_ort import ort

_NO_GRAPH = "-1"  # ONNX Runtime's annotation of a run that is neither captured nor replayed


@dataclass(frozen=True)
class _Bound:
    """Device buffers whose addresses are part of a CUDA graph, and their IO binding."""

    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class CapturedGraphs:
    """A session that uses a CUDA graph for feeds of selected shapes, and a normal run for all others.

    A CUDA graph has one set of buffers, so its runs are serialized; normal runs are not.
    """

    def __init__(self, session: Any, shapes: Sequence[tuple[int, int]], device: str, index: int) -> None:
        """Prepare the capture; each graph is captured on its first run.

        Args:
            session: InferenceSession with CUDA graphs enabled.
            shapes: shapes (batch, sequence) to capture.
            device: device type of the session as OrtValue names it, such as "cuda".
            index: index of the device.
        """
        self._session, self._device, self._index = session, device, index
        self._numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes), 1)}
        self._bound: dict[tuple[int, int], _Bound] = {}
        self._lock = threading.Lock()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the session and return the named outputs on the host."""
        shapes = {array.shape for array in feeds.values()}
        shape = next(iter(shapes)) if len(shapes) == 1 else None
        if shape not in self._numbers:
            # ONNX Runtime has no types
            return self._session.run(outputs, feeds, plain_run())  # type: ignore[no-any-return]
        with self._lock:
            bound = self._bound.get(shape) or self._bind(shape, feeds)
            for name, array in feeds.items():
                bound.inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(bound.binding, _options(str(self._numbers[shape])))
            return [bound.outputs[name].numpy() for name in outputs]

    def _bind(self, shape: tuple[int, int], feeds: Mapping[str, npt.NDArray[Any]]) -> _Bound:
        names = [value.name for value in self._session.get_outputs()]
        examples = self._session.run(names, feeds, plain_run())  # a graph needs its outputs' shapes before its first run
        values = ort.OrtValue.ortvalue_from_numpy
        bound = _Bound(
            self._session.io_binding(),
            {name: values(np.ascontiguousarray(array), self._device, self._index) for name, array in feeds.items()},
            {name: values(array, self._device, self._index) for name, array in zip(names, examples, strict=True)},
        )
        for name, value in bound.inputs.items():
            bound.binding.bind_ortvalue_input(name, value)
        for name, value in bound.outputs.items():
            bound.binding.bind_ortvalue_output(name, value)
        self._bound[shape] = bound
        return bound


def plain_run() -> Any:
    """Return the options of a run without a CUDA graph, for a session with CUDA graphs enabled."""
    return _options(_NO_GRAPH)


def _options(graph: str) -> Any:
    found = ort.RunOptions()
    found.add_run_config_entry("gpu_graph_id", graph)
    return found
