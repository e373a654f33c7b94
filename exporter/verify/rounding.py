"""How far the logits of an int8 graph move if its floats are rounded in another way, as by another provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from exporter.plan import Plan
from exporter.targets import ROUNDING
from runtime.bundle import Floats, Probe
from runtime.bundle.probe import thinned
from runtime.options import WEIGHTS_FOLDER

_SEEDS = 4
_ERRORS_ONLY = 3


def measure_rounding(plan: Plan, probe: Probe, path: Path) -> dict[str, dict[Floats, float]]:
    """Run a graph with slightly changed biases, norms and scales, and compare its logits with those of the probe.

    A difference in the last bit of an activation can round it to the next of 255 steps, in each layer again. A provider that is
    right can therefore differ by as much as the logits move if every vector of the graph (biases, norms, scales of weights)
    changes by the rounding of a type of floats.

    Args:
        plan: the plan of the graph.
        probe: inputs and logits of the graph.
        path: file of the graph.

    Returns:
        Task -> type of floats -> the largest difference of a logit, relative to max(1, largest absolute logit of the task);
        empty in other precisions than int8.
    """
    if plan.precision != "int8":
        return {}
    found: dict[str, dict[Floats, float]] = {task.name: {} for task in plan.tasks}
    for unit in sorted(set(ROUNDING.values())):
        runs = [_run(path, probe, unit, seed) for seed in range(_SEEDS)]
        for task, names in plan.outputs.items():
            spread = max(_difference(run[name], probe.outputs[name]) for run in runs for name in names)
            spread = max(spread, *found[task].values(), 0.0)  # coarser rounding moves logits at least as far
            found[task] |= {kind: spread for kind, own in ROUNDING.items() if own == unit}
    return found


def _run(path: Path, probe: Probe, unit: float, seed: int) -> dict[str, np.ndarray]:
    """Run the graph with vectors that are changed by at most `unit`, relative to each number."""
    model, rng = ir.load(path), np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 1:
            numbers = tensor.numpy()
            changed = numbers * (1 + unit * rng.uniform(-1, 1, numbers.shape))
            value.const_value = ir.tensor(changed.astype(np.float32), name=value.name)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    names = list(probe.outputs)
    return {name: thinned(array) for name, array in zip(names, session.run(names, dict(probe.feeds)), strict=True)}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(found - expected).max(initial=0.0)) / scale
