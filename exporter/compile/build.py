"""From pruned models to one compiled graph, and the proof that it is right."""

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
    """One trace for all tasks of one structure, and the weights of each."""
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
    """Attributes:
    graph: the finished graph of all tasks, for the plan's target and in its precision.
    routed: the same of the graph whose rows choose their task; None where it was not asked for.
    exact: both in fp32 and standard operators where the precision is lower, else None: rounding can hide a mistake.
    passes: what each pass did, in order.
    kept: clean groups that nobody else changes; empty where they were not asked for.
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
    """Compiles the traced groups. `texts` tell the activations' ranges to a target that must know them. `clean`: the groups'
    templates are clean already.

    Raises:
        ExportError: a pass cannot work on this model, or no routed graph can be made of its tasks.
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
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error
    if not routed:
        return Compiled(finished, None, None if reference is None else (reference, None), tuple(passes), tuple(kept))
    try:
        graph, more = route_groups(own, BATCH, [task.name for task in plan.tasks], every_row=plan.target == "tensorrt")
        passes += more
        routes, exact_routes = _lower(graph, plan, ROUTED, passes, _measure(texts, len(plan.tasks)))
        for each in (routes, exact_routes):
            if each is not None:
                strip(each)
    except Exception as error:  # as above
        reason = str(error.__cause__ or error) or type(error).__name__
        raise ExportError(
            f"no routed graph can be made of these tasks: {reason}; leave --routed out, or export the tasks of that kind as a "
            "bundle of their own"
        ) from error
    return Compiled(finished, routes, None if reference is None else (reference, exact_routes), tuple(passes), tuple(kept))


def _lower(
    graph: ir.Model, plan: Plan, name: str, passes: list[PassRow], measure: Measure | None
) -> tuple[ir.Model, ir.Model | None]:
    """The graph for the plan's target and, where that rounds, as it was before."""
    reference = graph.clone() if plan.rounds else None
    return run_passes(graph, target_passes(plan.target, plan.precision, graph, measure, plan.opset), name, passes), reference


def copies(groups: Sequence[TracedGroup]) -> list[TracedGroup]:
    """The groups with graphs of their own over the same weights."""
    return [replace(group, model=group.model.clone()) for group in groups]


def _measure(texts: Calibration | None, tasks: int = 0) -> Measure | None:
    """`tasks`: how many a routed graph has; it then answers all of them for each text."""
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
    """Writes the graph to `path`, the routed one beside it, and the exact ones, where there are any, into a folder beside them,
    which is returned."""
    _save(compiled.graph, compiled.routed, weights, path)
    if compiled.reference is None:
        return None
    folder = path.with_suffix(".exact")
    folder.mkdir()
    with WeightsFile(folder / WEIGHTS) as own:
        _save(*compiled.reference, own, folder / MODEL)
    return folder


def _save(graph: ir.Model, routed: ir.Model | None, weights: WeightsFile, path: Path) -> None:
    save_graph(graph, weights, path)
    if routed is not None:
        save_graph(routed, weights, path.with_name(routed_file(path.name)))


def load_graph(plan: Plan, graph: Path, routed: bool, atol: float | None = None) -> Candidate:
    """The saved `graph`, and with `routed` the routed one beside it, to be held to `atol`, by default the plan's.

    Raises:
        VerificationError: ONNX Runtime cannot load one of them.
    """
    beside = graph.with_name(routed_file(graph.name)) if routed else None
    return Candidate.load(graph, plan.atol if atol is None else atol, beside)


def verify_saved(
    plan: Plan, task_groups: Sequence[TaskGroup], subject: Candidate, reference: Path | None
) -> tuple[ParityRow, ...]:
    """Verifies the graphs of `subject`, and those in the folder `exact` by the tolerance of fp32; removes that folder.

    Raises:
        VerificationError: a graph differs from PyTorch.
    """
    subjects = [subject]
    if reference is not None:
        subjects.append(load_graph(plan, reference / MODEL, subject.routed is not None, min(plan.atol, TOLERANCES["fp32"])))
    rows = verify(task_groups, plan, subjects, graph_outputs(plan))
    if reference is not None:
        shutil.rmtree(reference)
    return rows
