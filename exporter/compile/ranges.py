"""Measurement of activation ranges on calibration texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from runtime.bundle import MODEL, WEIGHTS


def measure_ranges(
    model: ir.Model, names: Iterable[str], feeds: Iterable[Mapping[str, npt.NDArray[np.int64]]]
) -> dict[str, tuple[float, float]]:
    """Measure the minimum and maximum of values with ONNX Runtime on the CPU.

    Args:
        model: the graph, which is not changed.
        names: names of the values; those that are not in the graph are ignored.
        feeds: batches of inputs by name.

    Returns:
        Name -> (minimum, maximum) over all batches.
    """
    probe = model.clone()
    graph = probe.graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    wanted = [name for name in names if name in values]
    if not wanted:  # a model whose weights are too small to be quantized
        return {}
    graph.outputs.clear()
    for name in wanted:
        for kind in ("ReduceMin", "ReduceMax"):
            node = ir.Node("", kind, [values[name]], attributes=[ir.AttrInt64("keepdims", 0)])
            node.outputs[0].name = f"{name}.{kind}"
            node.outputs[0].shape, node.outputs[0].dtype = ir.Shape([]), ir.DataType.FLOAT
            graph.append(node)
            graph.outputs.append(node.outputs[0])
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # as in a finished graph: ONNX Runtime infers shapes
    found = dict.fromkeys(wanted, (np.inf, -np.inf))
    with tempfile.TemporaryDirectory(prefix="ranges-") as folder:
        ir.save(probe, Path(folder) / MODEL, external_data=WEIGHTS)
        session = onnxruntime.InferenceSession(Path(folder) / MODEL, providers=["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        for batch in feeds:
            limits = [float(limit) for limit in session.run(None, {name: batch[name] for name in inputs})]
            for name, low, high in zip(wanted, limits[::2], limits[1::2], strict=True):
                found[name] = (min(found[name][0], low), max(found[name][1], high))
    return found
