"""The graph with slots of one variant: compiled, written and verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from exporter.compile.build import copies
from exporter.compile.slots import compile_slots
from exporter.errors import ExportError, VerificationError
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.targets import needs_ranges
from exporter.verify.routes import width
from exporter.verify.slots import verify_slots
from exporter.write.slots import make_layout, save_layout, save_slots_graph
from exporter.write.stored_groups import StoredGroup
from exporter.write.weights_file import WeightsFile
from runtime.ort.empty_tensors import safe_arguments
from runtime.slots.layout import MOST_SLOTS, SlotGroup

__all__ = ["check_slots", "open_slots", "save_slots"]


def check_slots(slots: int | None, precision: str, target: str, ranges: str | None) -> None:
    """Check the number of slots, and that the options allow them.

    Raises:
        ExportError: the number is out of range, or activations need measured ranges, which depend on the tasks.
    """
    if slots is None:
        return
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MOST_SLOTS:
        raise ExportError(f"slots must be a number from 1 to {MOST_SLOTS:,}, found {slots!r}")
    if needs_ranges(target, precision, ranges):
        raise ExportError(
            f"{precision} for the target {target} needs calibration texts of all tasks, and tasks in slots come later: omit "
            "slots, or choose another target or precision"
        )


def save_slots(
    stored: Sequence[StoredGroup],
    task_groups: Sequence[TaskGroup],
    plan: Plan,
    slots: int,
    weights: WeightsFile,
    model: Path,
) -> dict[str, float]:
    """Compile the graph with slots from the stored groups of a variant, write it and verify it with its own tasks.

    Args:
        stored: the stored groups, as they are in the bundle.
        task_groups: the pruned models of the tasks to verify.
        plan: all tasks of the variant.
        slots: slots of each structure.
        weights: the weights file of the bundle.
        model: the file of the variant's graph.

    Returns:
        The tasks that were compared with PyTorch in fp64, as in `verify_slots`.

    Raises:
        ExportError: the tasks cannot be compiled to such a graph.
        VerificationError: the graph differs from PyTorch.
    """
    by_name = {task.name: task for task in plan.tasks}
    groups = [SlotGroup(each.structure, max(width(by_name[name]) for name in each.group.tasks)) for each in stored]
    compiled = compile_slots(copies([each.group for each in stored]), [group.columns for group in groups], plan, slots)
    layout = make_layout(compiled.model, compiled.inputs, compiled.fingerprint, groups, slots)
    path = save_slots_graph(compiled.model, weights, model)
    group_of = {name: number for number, each in enumerate(stored) for name in each.group.tasks}
    parity, exact = verify_slots(open_slots(path), layout, plan, task_groups, compiled.rows, group_of)
    save_layout(layout, compiled.rows, group_of, plan, parity, path)
    return exact


def open_slots(graph: Path) -> Any:
    """Open a graph with slots for verification.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """
    try:
        return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"], **safe_arguments())
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise VerificationError(f"ONNX Runtime cannot load the graph with slots; nothing was written: {error}") from error
