"""Comparison of loaded adapters with models that the library itself loads from the same folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from exporter.checkpoints.load import Checkpoint
from exporter.errors import VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.models.library import owner_of
from exporter.models.quiet_libraries import quiet
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup, in_fp32
from exporter.targets import TOLERANCES
from exporter.verify.eager import eager
from exporter.verify.random_inputs import MASKS, make_inputs

# Rows, and tokens of each.
_SHAPE = (2, 9)


def compare_with_library(checkpoint: Checkpoint, plan: Plan) -> None:
    """Compare each task at drop 0 with its adapter as the library loads it, for random inputs with padding and token types.

    The exporter loads many adapters into one model; the library loads one adapter into a fresh model. Every graph is verified
    against the former, which is verified here. Live models have no folder to load and are the library's own.

    Args:
        checkpoint: the loaded model with its reference, which has none for live models.
        plan: the tasks.

    Raises:
        ExportError: the library cannot load an adapter.
        VerificationError: the outputs of a task differ.
    """
    if checkpoint.reference is None:
        return
    model = in_fp32(checkpoint.model)
    failed = []
    for task in plan.tasks:
        ours = TaskGroup((task,), owner_of(model, task.setup))
        library = TaskGroup((task,), checkpoint.reference(task.setup))
        difference, limit = _difference(ours, library, plan, task)
        if not difference <= limit:
            failed.append(f"  {task.name}: max |difference| {difference:.2e}, over {limit:.2e}")
    if failed:
        raise VerificationError(
            "adapters differ from those that PEFT itself loads from the same folders; nothing was written:\n"
            + "\n".join(failed)
        )


def _difference(ours: TaskGroup, library: TaskGroup, plan: Plan, task: Task) -> tuple[float, float]:
    """The largest difference and the tolerance."""
    rows, tokens = _SHAPE
    for masks in MASKS:
        inputs = make_inputs(plan, rows, min(tokens, plan.max_lengths.get(SEQUENCE, tokens)), masks=masks)
        with quiet():
            expected = _outputs(library, plan, task, inputs)
            if all(np.isfinite(output).all() for output in expected) and expected:
                limit = TOLERANCES["fp32"] * max(1.0, *(float(np.abs(each).max(initial=0.0)) for each in expected))
                return _largest(expected, eager(ours, plan, task, inputs)), limit
    return 0.0, 0.0


def _outputs(library: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return eager(library, plan, task, inputs, activate=False)
    except Exception:  # raised by the model for these masks; the verification of the graph reports it
        return []


def _largest(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    pairs = list(zip(expected, found, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    return max(float(np.abs(one - other).max(initial=0.0)) for one, other in pairs)
