"""Comparison of loaded adapters with models that the library itself loads from the same folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.checkpoints.load import Checkpoint
from exporter.errors import VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.models.library import owner_of
from exporter.models.own_tasks import OwnModel
from exporter.models.quiet_libraries import quiet
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup, in_fp32
from exporter.targets import TOLERANCES
from exporter.verify.eager import eager
from exporter.verify.random_inputs import MASKS, Masks, make_inputs

# Rows, and tokens of each.
_SHAPE = (2, 9)


def is_comparable(plan: Plan) -> bool:
    """Return whether the plan's graph computes what the library computes: without drops and in fp32."""
    return plan.precision == "fp32" and all(task.drop == 0 for task in plan.tasks)


def compare_with_library(checkpoint: Checkpoint, plan: Plan) -> None:
    """Compare each task with its adapter as the library loads it, for random inputs with padding and token types.

    The exporter loads many adapters into one model; the library loads one adapter into a fresh model. Compared is the loaded
    model, with which a graph is compared afterwards; comparable graphs are compared with the library's models themselves. Live
    models have no folder to load and are the library's own.

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
        library = TaskGroup((task,), checkpoint.reference(task.setup))
        for masks in MASKS:
            inputs = _inputs(plan, masks)
            with quiet():
                expected = _outputs(library, plan, task, inputs)
                if not expected or not all(np.isfinite(output).all() for output in expected):
                    continue
                found = eager(TaskGroup((task,), owner_of(model, task.setup)), plan, task, inputs)
            difference = _largest(expected, found)
            limit = TOLERANCES["fp32"] * max(1.0, *(float(np.abs(each).max(initial=0.0)) for each in expected))
            if not difference <= limit:
                failed.append(f"  {task.name}: max |difference| {difference:.2e}, over {limit:.2e}")
            break
    if failed:
        raise differing([owner_of(model, task.setup) for task in plan.tasks], failed)


def differing(models: Iterable[Any], failed: Sequence[str]) -> VerificationError:
    """Return the error for tasks that differ from those that the library itself loads.

    Args:
        models: the models of the tasks.
        failed: a line for each of the tasks that differ.
    """
    own = any(isinstance(model, OwnModel) for model in models)
    what = "tasks differ from those that the library" if own else "adapters differ from those that PEFT"
    return VerificationError(f"{what} itself loads from the same folders; nothing was written:\n" + "\n".join(failed))


def _inputs(plan: Plan, masks: Masks) -> dict[str, np.ndarray]:
    rows, tokens = _SHAPE
    return make_inputs(plan, rows, min(tokens, plan.max_lengths.get(SEQUENCE, tokens)), masks=masks)


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
