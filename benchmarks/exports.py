"""Exports for the ONNX contenders: one file per task and one graph for all tasks, from the same traces.

The file of a task is the best one possible: it is compiled by the same graph compiler.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.models import Candidate
from exporter.compile.build import compile_plan
from exporter.plan import Plan
from exporter.prune.sizes import stored_bytes
from exporter.prune.task_groups import TaskGroup, prune
from exporter.targets import TOLERANCES, needs_ranges
from exporter.texts.batches import Batch, Calibration
from exporter.trace.trace import trace_group
from exporter.traced_group import TracedGroup
from exporter.verify.probe import make_probe
from exporter.verify.random_inputs import make_inputs
from exporter.verify.saved import load_graph, verify_saved
from exporter.write.save import save_config, save_graph, save_graphs, save_manifest, save_probe, variant_entry
from exporter.write.staging import check_space
from exporter.write.weights_file import WeightsFile
from runtime.bundle import MODEL, WEIGHTS, ParityRow


class Traces:
    """Traces of the model, one per structure, created on first use and shared by all exports."""

    def __init__(self, candidate: Candidate) -> None:
        """Remember the model; nothing is traced yet."""
        self._candidate = candidate

    @cached_property
    def result(self) -> tuple[tuple[TaskGroup, ...], list[TracedGroup], float]:
        """Pruned models, the traced group of each, and the seconds of pruning and tracing."""
        start = time.perf_counter()
        plan = self._candidate.plan
        task_groups = prune(self._candidate.model, plan)
        return task_groups, [trace_group(task_group, plan) for task_group in task_groups], time.perf_counter() - start


def export_one_graph(
    candidate: Candidate,
    traces: Traces,
    folder: Path,
    target: str = "portable",
    precision: str = "fp32",
    verified: bool = True,
) -> None:
    """Write and verify the same files as `exporter.export`, from existing traces.

    Args:
        candidate: model to export.
        traces: its traces.
        folder: folder to create.
        target: target of the compiled graph.
        precision: precision of the compiled graph.
        verified: compare the graph with PyTorch on the CPU, which takes minutes in fp16.
    """
    plan = dataclasses.replace(candidate.plan, target=target, precision=precision, atol=TOLERANCES[precision])
    task_groups, groups, _ = traces.result
    # The compiler modifies its input graphs.
    fresh = [dataclasses.replace(group, model=group.model.clone()) for group in groups]
    compiled = compile_plan(fresh, plan, _texts(plan) if needs_ranges(target, precision) else None)
    folder.mkdir(parents=True)
    with WeightsFile(folder / WEIGHTS) as weights:
        reference_graphs = compiled.reference if verified else None
        reference = save_graphs((compiled.graph, compiled.routed), reference_graphs, weights, folder / MODEL)
    graph = load_graph(plan, folder / MODEL, routed=False)
    parity: tuple[ParityRow, ...] = ()
    if verified:
        parity = verify_saved(plan, task_groups, graph, reference).rows
    probe = save_probe(make_probe(plan, graph.graph), plan, {}, folder / MODEL)
    tokenizer = candidate.tokenizer
    save_config(task_groups[0].model, plan, [] if tokenizer is None else [tokenizer], folder)
    entry = variant_entry(task_groups, plan, MODEL, parity, compiled.passes, probe)
    save_manifest(plan, tokenizer is not None, False, [entry], folder, {})


def _texts(plan: Plan) -> Calibration:
    """Return random tokens as calibration data; for a randomly initialized model, only the speed matters."""
    feeds = [make_inputs(plan, 4, length, seed) for seed, length in enumerate((16, 64, 128))]
    return Calibration("random tokens", batches=tuple(Batch(tuple(range(4)), each) for each in feeds))


def export_task_files(
    candidate: Candidate, traces: Traces, folder: Path, target: str = "portable", precision: str = "fp32"
) -> dict[str, Path]:
    """Write one ONNX file per task, `folder`/<number of the task>/model.onnx.

    The graph of a task is the trace of its structure with the weights of this task, compiled separately.

    Args:
        candidate: model to export.
        traces: its traces.
        folder: folder of the files.
        target: target of the compiled graphs.
        precision: precision of the compiled graphs.

    Returns:
        Task -> its folder.
    """
    plan = dataclasses.replace(candidate.plan, target=target, precision=precision)
    task_groups, groups, _ = traces.result
    check_space(folder / "task", stored_bytes(task_groups) * len(candidate.tasks))
    folders: dict[str, Path] = {}
    for task_group, group in zip(task_groups, groups, strict=True):
        for number, task in enumerate(task_group.tasks):
            own = {name: arrays[number] for name, arrays in group.weights.items()}
            single = TracedGroup((task.name,), _with_weights(group.model, own), {name: [array] for name, array in own.items()})
            graph = compile_plan([single], dataclasses.replace(plan, tasks=(task,))).graph
            own_folder = folder / str(candidate.tasks.index(task.name))
            own_folder.mkdir(parents=True)
            with WeightsFile(own_folder / WEIGHTS) as weights:
                save_graph(graph, weights, own_folder / MODEL)
            folders[task.name] = own_folder
    return {task: folders[task] for task in candidate.tasks}


def _with_weights(template: ir.Model, weights: Mapping[str, np.ndarray]) -> ir.Model:
    """Return a copy of the traced template with the weights of one task."""
    clone = template.clone()
    resized = []
    for name, array in weights.items():
        value = clone.graph.initializers[name]
        if value.const_value is None or list(value.const_value.shape) != list(array.shape):
            resized.append(value)
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)
    _forget_shapes(clone, resized)
    return clone


def _forget_shapes(graph: ir.Model, resized: list[ir.Value]) -> None:
    """Remove the template's shapes after weights whose shape differs in this task (label counts); a pass infers them again."""
    stale = set(resized)
    for node in graph.graph:
        if any(value in stale for value in node.inputs):
            for output in node.outputs:
                output.shape = None
                stale.add(output)
