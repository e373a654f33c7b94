"""One ONNX file per task: what people do today, and the best such file, because our own graph compiler makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from exporter.binding import task_weights
from exporter.passes import Group, compile_groups
from exporter.prune import prune
from exporter.save import finish, save_graph
from exporter.staging import check_space
from exporter.trace import BATCH, trace

from .models import Subject


def export_task_files(subject: Subject, folder: Path) -> dict[str, Path]:
    """Writes `folder`/<number of the task>/model.onnx for every task; returns task -> its folder.

    Each structure is traced once. A task's graph is that trace with its own weights in it, compiled by itself.
    """
    pruned = prune(subject.model, subject.plan)
    kept = sum(parameter.numel() * parameter.element_size() for parameter in pruned.parameters())
    check_space(folder / "task", kept * len(subject.tasks))
    folders: dict[str, Path] = {}
    for group in subject.plan.groups:
        names = tuple(task.name for task in group)
        weights = task_weights(pruned, names[0], names)
        template = trace(pruned, subject.plan, group[0])
        for number, task in enumerate(group):
            own = {name: tensors[number] for name, tensors in weights.items()}
            graph = _with_weights(template, own)
            arrays = {name: [tensor.numpy()] for name, tensor in own.items()}
            compiled, _ = compile_groups([Group((task.name,), graph, arrays)], BATCH)
            finish(compiled, dataclasses.replace(subject.plan, tasks=(task,)))
            target = folder / str(subject.tasks.index(task.name))
            target.mkdir(parents=True)
            save_graph(compiled, target)
            folders[task.name] = target
    return {task: folders[task] for task in subject.tasks}


def _with_weights(template: ir.Model, weights: Mapping[str, torch.Tensor]) -> ir.Model:
    """A copy of the traced template that holds the weights of one task."""
    clone = template.clone()
    resized = []
    for name, tensor in weights.items():
        value = clone.graph.initializers.get(name)
        if value is None:
            continue  # the trace found no use for it
        if value.const_value is None or list(value.const_value.shape) != list(tensor.shape):
            resized.append(value)
        value.const_value = ir.tensor(tensor.contiguous().numpy(), name=name)
        value.shape = ir.Shape(tensor.shape)
    _forget_shapes(clone, resized)
    return clone


def _forget_shapes(graph: ir.Model, resized: list[ir.Value]) -> None:
    """Drops the template's shapes behind weights that have another shape in this task (label counts); a pass infers them."""
    stale = set(resized)
    for node in graph.graph:
        if any(value in stale for value in node.inputs):
            for output in node.outputs:
                output.shape = None
                stale.add(output)
