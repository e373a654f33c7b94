"""One ONNX file per task: what people do today, and the best such file, because our own graph compiler makes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from exporter.binding import task_weights
from exporter.passes import Group, compile_groups
from exporter.prune import prune
from exporter.save import finish, output_names, save_config, save_graph, save_manifest
from exporter.staging import check_space
from exporter.trace import BATCH, trace
from exporter.verify import verify
from runtime.bundle import MODEL

from .models import Subject


class Traces:
    """One trace per structure, from which both the files per task and our one graph are made; made on first use."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def made(self) -> tuple[Any, list[tuple[dict[str, list[torch.Tensor]], ir.Model]], float]:
        """The pruned model, weights and template per structure, and how many seconds that took."""
        start = time.perf_counter()
        plan = self._subject.plan
        pruned = prune(self._subject.model, plan)
        traced = []
        for group in plan.groups:
            names = tuple(task.name for task in group)
            traced.append((task_weights(pruned, names[0], names), trace(pruned, plan, group[0])))
        return pruned, traced, time.perf_counter() - start


def export_one_graph(subject: Subject, traces: Traces, folder: Path) -> None:
    """What `exporter.export` writes, verified as there, from traces that are made already."""
    pruned, traced, _ = traces.made
    plan, groups = subject.plan, []
    for group, (weights, template) in zip(subject.plan.groups, traced, strict=True):
        names = tuple(task.name for task in group)
        arrays = {name: [tensor.numpy() for tensor in tensors] for name, tensors in weights.items()}
        groups.append(Group(names, template.clone(), arrays))
    graph, _ = compile_groups(groups, BATCH)
    finish(graph, plan)
    folder.mkdir(parents=True)
    save_graph(graph, folder)
    save_config(pruned, plan, subject.tokenizer, folder)
    parity = verify(pruned, plan, folder / MODEL, output_names(plan))
    save_manifest(pruned, plan, subject.tokenizer, parity, folder)


def export_task_files(subject: Subject, traces: Traces, folder: Path) -> dict[str, Path]:
    """Writes `folder`/<number of the task>/model.onnx for every task; returns task -> its folder.

    A task's graph is its structure's trace with its own weights in it, compiled by itself.
    """
    pruned, traced, _ = traces.made
    kept = sum(parameter.numel() * parameter.element_size() for parameter in pruned.parameters())
    check_space(folder / "task", kept * len(subject.tasks))
    folders: dict[str, Path] = {}
    for group, (weights, template) in zip(subject.plan.groups, traced, strict=True):
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
