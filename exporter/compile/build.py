"""The steps from pruned models to a saved and verified graph."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.compile.pipeline import JOINED, ROUTED, TracedGroup, clean_groups, compile_groups, route_groups, run_passes
from exporter.compile.ranges import measure_ranges
from exporter.compile.target_passes import Measure, target_passes
from exporter.errors import ExportError
from exporter.models.binding import task_weights
from exporter.models.inputs import BATCH
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TOLERANCES
from exporter.texts.batches import Calibration
from exporter.trace.trace import trace, traceable
from exporter.verify.verify import Candidate, verify
from exporter.write.save import finish, graph_outputs, routed_file, save_graph, strip
from exporter.write.weights_file import WeightsFile
from runtime.bundle import MODEL, ROUTE_INPUTS, WEIGHTS, ParityRow, PassRow


def trace_group(task_group: TaskGroup, plan: Plan) -> TracedGroup:
    """Trace the first task of a group and collect the weights of all its tasks."""
    task_group = traceable(task_group)
    graph = trace(task_group, plan)
    weights = {
        name: [tensor.numpy() for tensor in tensors]
        for name, tensors in task_weights(task_group.model, task_group.tasks).items()
        if name in graph.graph.initializers
    }
    return TracedGroup(tuple(task.name for task in task_group.tasks), graph, weights)


@dataclass(frozen=True)
class Compiled:
    """The compiled graphs of one plan.

    Attributes:
        graph: the graph of all tasks for the plan's target and precision.
        routed: the routed graph for the same target and precision; None if it was not requested.
        reference: both graphs in fp32 with standard operators, because rounding can hide errors of the compiler; None if
            the graph itself is in fp32.
        passes: nodes and bytes before and after each pass, in order.
        kept: copies of the cleaned groups; empty if they were not requested.
    """

    graph: ir.Model
    routed: ir.Model | None
    reference: tuple[ir.Model, ir.Model | None] | None
    passes: tuple[PassRow, ...]
    kept: tuple[TracedGroup, ...]


def compile_plan(
    groups: Sequence[TracedGroup],
    plan: Plan,
    texts: Calibration | None = None,
    routed: bool = False,
    keep: bool = False,
    clean: bool = False,
) -> Compiled:
    """Compile the traced groups to the graphs of a plan.

    Args:
        groups: the traced groups, which are changed in place.
        plan: the plan of all tasks.
        texts: calibration texts, to measure the ranges of activations for targets that need them.
        routed: whether to compile a routed graph too.
        keep: whether to return copies of the cleaned groups.
        clean: whether the groups are already cleaned.

    Raises:
        ExportError: a pass does not support this model, or its tasks cannot be routed.
    """
    passes: list[PassRow] = []
    try:
        ready = list(groups)
        if not clean:
            ready, passes = clean_groups(groups)
        kept = copies(ready) if keep else []
        own = copies(ready) if routed else []
        graph, more = compile_groups(ready, BATCH)
        passes += more
        finished, reference = _lower(graph, plan, JOINED, passes, _measure(texts))
        for each in (finished, reference):
            if each is not None:
                finish(each, plan)
    except Exception as error:  # of passes, onnx-ir, onnxscript and the reference implementation of ONNX
        raise ExportError(f"the graph compiler does not support this model: {error or type(error).__name__}") from error
    if not routed:
        return Compiled(finished, None, None if reference is None else (reference, None), tuple(passes), tuple(kept))
    try:
        graph, more = route_groups(own, BATCH, [task.name for task in plan.tasks], every_row=plan.target == "tensorrt")
        passes += more
        routes, reference_routes = _lower(graph, plan, ROUTED, passes, _measure(texts, len(plan.tasks)))
        for each in (routes, reference_routes):
            if each is not None:
                strip(each)
    except Exception as error:  # as above
        reason = str(error.__cause__ or error) or type(error).__name__
        raise ExportError(
            f"these tasks cannot be compiled to a routed graph: {reason}; omit --routed, or export the tasks of that kind to a "
            "separate bundle"
        ) from error
    return Compiled(finished, routes, None if reference is None else (reference, reference_routes), tuple(passes), tuple(kept))


def _lower(
    graph: ir.Model, plan: Plan, name: str, passes: list[PassRow], measure: Measure | None
) -> tuple[ir.Model, ir.Model | None]:
    """Return the graph for the plan's target and, if that has a lower precision, a copy in fp32."""
    reference = graph.clone() if plan.rounds else None
    return run_passes(graph, target_passes(plan.target, plan.precision, graph, measure, plan.opset), name, passes), reference


def copies(groups: Sequence[TracedGroup]) -> list[TracedGroup]:
    """Return the groups with copies of their graphs and the same weights."""
    return [replace(group, model=group.model.clone()) for group in groups]


def _measure(texts: Calibration | None, tasks: int = 0) -> Measure | None:
    """Return a function that measures ranges on the texts; in a routed graph of `tasks` tasks, each text runs for all."""
    if texts is None:
        return None
    batches = [batch.feeds for batch in texts.batches]
    if tasks:
        batches = [{**feeds, **_every_route(len(next(iter(feeds.values()))), tasks)} for feeds in batches]
    return lambda model, names: measure_ranges(model, names, batches)


def _every_route(rows: int, tasks: int) -> dict[str, np.ndarray]:
    ids = (np.tile(np.arange(rows), tasks), np.repeat(np.arange(tasks), rows))
    return dict(zip(ROUTE_INPUTS, ids, strict=True))


def save(compiled: Compiled, weights: WeightsFile, path: Path) -> Path | None:
    """Write the graph to `path`, the routed graph to the same folder, and the reference graphs to a temporary folder.

    Args:
        compiled: the graphs.
        weights: the weights file of the bundle.
        path: the file of the graph.

    Returns:
        The folder of the reference graphs, which `verify_saved` removes; None if there are none.
    """
    _save(compiled.graph, compiled.routed, weights, path)
    if compiled.reference is None:
        return None
    folder = path.with_suffix(".reference")
    folder.mkdir()
    with WeightsFile(folder / WEIGHTS) as own:
        _save(*compiled.reference, own, folder / MODEL)
    return folder


def _save(graph: ir.Model, routed: ir.Model | None, weights: WeightsFile, path: Path) -> None:
    save_graph(graph, weights, path)
    if routed is not None:
        save_graph(routed, weights, path.with_name(routed_file(path.name)))


def load_graph(plan: Plan, graph: Path, routed: bool, atol: float | None = None) -> Candidate:
    """Load a saved graph for verification.

    Args:
        plan: the plan of the graph.
        graph: the file of the graph.
        routed: whether to load the routed graph in the same folder too.
        atol: the tolerance; None for the plan's.

    Raises:
        VerificationError: ONNX Runtime cannot load a graph.
    """
    routed_graph = graph.with_name(routed_file(graph.name)) if routed else None
    return Candidate.load(graph, plan.atol if atol is None else atol, routed_graph)


def verify_saved(
    plan: Plan, task_groups: Sequence[TaskGroup], candidate: Candidate, reference: Path | None
) -> tuple[ParityRow, ...]:
    """Verify saved graphs and the reference graphs, which are removed.

    Args:
        plan: the plan of the graphs.
        task_groups: the pruned models.
        candidate: the graphs, compared with the plan's tolerance.
        reference: the folder of the reference graphs, compared with the tolerance of fp32; None if there are none.

    Returns:
        The parity rows of `candidate`.

    Raises:
        VerificationError: a graph differs from PyTorch.
    """
    candidates = [candidate]
    if reference is not None:
        fp32_atol = min(plan.atol, TOLERANCES["fp32"])
        candidates.append(load_graph(plan, reference / MODEL, candidate.routed is not None, fp32_atol))
    rows = verify(task_groups, plan, candidates, graph_outputs(plan))
    if reference is not None:
        shutil.rmtree(reference)
    return rows
