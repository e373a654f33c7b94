"""The graph with slots in a bundle: the graph, its layout, and the weights of the bundle's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.errors import ExportError
from exporter.plan import Plan
from exporter.write.save import save_graph, task_entry
from exporter.write.task_file import task_file_bytes
from exporter.write.weights_file import WeightsFile
from runtime.bundle import ParityRow, slots_file
from runtime.slots.layout import LAYOUT_VERSION, SlotGroup, SlotLayout, SlotWeight, identity_of, layout_file, own_task_file


def make_layout(
    graph: ir.Model, inputs: Mapping[str, int], fingerprint: Mapping[str, str], groups: Sequence[SlotGroup], slots: int
) -> SlotLayout:
    """Describe a graph with slots.

    Args:
        graph: the graph.
        inputs: input for weights -> number of its group.
        fingerprint: hashes of its parts.
        groups: structure and columns of each group.
        slots: slots of each group.
    """
    values = {str(value.name): value for value in graph.graph.inputs}
    weights = []
    for name, number in sorted(inputs.items()):
        value = values[name]
        if value.dtype is None or value.shape is None:
            raise ExportError(f"the weights {name} have no known type and shape: omit --slots")
        shape = tuple(int(dim) for dim in value.shape.numpy()[1:])
        weights.append(SlotWeight(name, number, value.dtype.numpy().name, shape))
    identity = identity_of(fingerprint, {str(n): [group.structure, group.columns] for n, group in enumerate(groups)})
    columns = max(group.columns for group in groups)
    return SlotLayout(LAYOUT_VERSION, identity, slots, columns, tuple(groups), tuple(weights), {}, dict(fingerprint))


def save_slots_graph(graph: ir.Model, weights: WeightsFile, model: Path) -> Path:
    """Write a graph with slots next to the graph `model`, and return its path."""
    path = model.with_name(slots_file(model.name))
    save_graph(graph, weights, path)
    return path


def save_layout(
    layout: SlotLayout,
    rows: Mapping[str, Mapping[str, np.ndarray]],
    group_of: Mapping[str, int],
    plan: Plan,
    parity: Sequence[ParityRow],
    graph: Path,
) -> None:
    """Write the layout of a graph with slots, and the weights of the tasks of the bundle.

    Args:
        layout: the layout, without files of tasks.
        rows: task -> input -> weights.
        group_of: task -> number of its group.
        plan: the tasks.
        parity: comparisons with eager PyTorch.
        graph: the file of the graph.
    """
    own: dict[str, str] = {}
    for number, task in enumerate(plan.tasks):
        own[task.name] = own_task_file(graph.name, number)
        graphs = {layout.identity: (plan.drop, group_of[task.name], rows[task.name])}
        mine = [row for row in parity if row.task == task.name]
        content = task_file_bytes(task_entry(task, (task.name,)), plan.precision, graphs, mine)
        graph.with_name(own[task.name]).write_bytes(content)
    whole = SlotLayout(**{**vars(layout), "own": own})
    graph.with_name(layout_file(graph.name)).write_bytes(whole.to_bytes())
