"""CUDA graphs for a few fixed input shapes: captured when a bundle is loaded, then replayed."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import InputError
from runtime.import_ort import ort
from runtime.ort.device_lock import DEVICE_LOCK

_NO_GRAPH = "-1"  # ONNX Runtime's annotation of a run that is neither captured nor replayed

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Bound:
    """Device buffers whose addresses are part of a CUDA graph, their IO binding, and the options of its runs."""

    options: Any
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class CapturedGraphs:
    """A session that replays a CUDA graph for feeds of selected shapes, and runs normally for all others.

    ONNX Runtime keeps CUDA graphs per thread and has one stream for such a session: one thread makes all its runs.
    """

    def __init__(self, session: Any, shapes: Sequence[tuple[int, int]], device: str, index: int) -> None:
        """Prepare the graphs; `capture` makes them.

        Args:
            session: InferenceSession with CUDA graphs enabled.
            shapes: shapes (batch, sequence) to capture.
            device: device type of the session as OrtValue names it, such as "cuda".
            index: index of the device.
        """
        self._session, self._device, self._index = session, device, index
        self._shapes = tuple(dict.fromkeys(shapes))
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self._thread = ThreadPoolExecutor(1, "cuda-graphs")

    def capture(self, example: Callable[[int, int], Arrays]) -> None:
        """Capture the graphs of all shapes, with the feeds of `example`. Runs of other sessions on a GPU wait meanwhile.

        Raises:
            InputError: the model does not take inputs of such a shape.
        """
        for number, shape in enumerate(self._shapes, 1):
            feeds = example(*shape)
            if found := sorted({array.shape for array in feeds.values()} - {shape}):
                raise InputError(
                    f"options: cuda.graphs: expected shapes (batch, sequence) of this model's inputs, found {shape!r}, for "
                    f"which the inputs have {', '.join(map(repr, found))}; give other shapes or none"
                )
            with DEVICE_LOCK.exclusive():
                self._bound[shape] = self._thread.submit(self._capture, str(number), feeds).result()

    def run(self, outputs: Sequence[str], feeds: Arrays, options: Any = None) -> list[npt.NDArray[Any]]:
        """Run the session and return the named outputs on the host.

        `options` are those of a normal run, with which another thread can end it; a replay cannot be interrupted.
        """
        shapes = {array.shape for array in feeds.values()}
        bound = self._bound.get(next(iter(shapes))) if len(shapes) == 1 else None

        def work() -> list[npt.NDArray[Any]]:
            if bound is None:
                # ONNX Runtime has no types
                return self._session.run(outputs, feeds, _run_options(_NO_GRAPH, options))  # type: ignore[no-any-return]
            self._replay(bound, feeds)
            return [np.array(bound.outputs[name].numpy()) for name in outputs]  # on a CPU, numpy() returns a view

        with DEVICE_LOCK.shared():
            return self._thread.submit(work).result()

    def run_on_device(self, outputs: Sequence[str], feeds: Arrays) -> list[Any]:
        """Run the session and return the named outputs as OrtValues on the device.

        They are copies: a replay overwrites the memory that the session manages, even while a caller holds an output there.
        """
        copy = ort.OrtValue.ortvalue_from_numpy
        return [copy(array, self._device, self._index) for array in self.run(outputs, feeds)]

    def _replay(self, bound: _Bound, feeds: Arrays) -> None:
        for name, array in feeds.items():
            bound.inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(bound.binding, bound.options)

    def _capture(self, number: str, feeds: Arrays) -> _Bound:
        names = [value.name for value in self._session.get_outputs()]
        # A graph needs its outputs' shapes before its first run.
        examples = self._session.run(names, feeds, _run_options(_NO_GRAPH))
        values = ort.OrtValue.ortvalue_from_numpy
        bound = _Bound(
            _run_options(number),
            self._session.io_binding(),
            {name: values(np.ascontiguousarray(array), self._device, self._index) for name, array in feeds.items()},
            {name: values(array, self._device, self._index) for name, array in zip(names, examples, strict=True)},
        )
        for name, value in bound.inputs.items():
            bound.binding.bind_ortvalue_input(name, value)
        for name, value in bound.outputs.items():
            bound.binding.bind_ortvalue_output(name, value)
        self._replay(bound, feeds)
        return bound


def _run_options(graph: str, options: Any = None) -> Any:
    """Return the options of a run with the graph of this number; `options` are extended if they are given."""
    found = ort.RunOptions() if options is None else options
    found.add_run_config_entry("gpu_graph_id", graph)
    return found
