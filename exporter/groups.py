"""From pruned models to one compiled graph, and the proof that it is right."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from runtime.bundle import MODEL, ROUTE_INPUTS, WEIGHTS, ParityRow, PassRow

from .binding import task_weights
from .calibration import Calibration
from .errors import ExportError
from .inputs import BATCH
from .passes import JOINED, ROUTED, Group, Measure, clean_groups, compile_groups, route_groups, run_passes, target_passes
from .plan import TOLERANCES, Plan
from .prune import Branch
from .ranges import measure_ranges
from .save import finish, graph_outputs, routed_file, save_graph, strip
from .trace import trace, traceable
from .verify import Subject, verify
from .weights_file import WeightsFile


def trace_group(branch: Branch, plan: Plan) -> Group:
    """One trace for all tasks of one structure, and the weights of each."""
    branch = traceable(branch)
    graph = trace(branch, plan)
    weights = {
        name: [tensor.numpy() for tensor in tensors]
        for name, tensors in task_weights(branch.model, branch.tasks).items()
        if name in graph.graph.initializers
    }
    return Group(tuple(task.name for task in branch.tasks), graph, weights)


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
    exact: tuple[ir.Model, ir.Model | None] | None
    passes: tuple[PassRow, ...]
    kept: tuple[Group, ...]


def compile_plan(
    groups: Sequence[Group],
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
        finished, exact = _lower(graph, plan, JOINED, passes, _measure(texts))
        for each in (finished, exact):
            if each is not None:
                finish(each, plan)
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error
    if not routed:
        return Compiled(finished, None, None if exact is None else (exact, None), tuple(passes), tuple(kept))
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
    return Compiled(finished, routes, None if exact is None else (exact, exact_routes), tuple(passes), tuple(kept))


def _lower(
    graph: ir.Model, plan: Plan, name: str, passes: list[PassRow], measure: Measure | None
) -> tuple[ir.Model, ir.Model | None]:
    """The graph for the plan's target and, where that rounds, as it was before."""
    exact = graph.clone() if plan.rounds else None
    return run_passes(graph, target_passes(plan.target, plan.precision, graph, measure, plan.opset), name, passes), exact


def copies(groups: Sequence[Group]) -> list[Group]:
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
    if compiled.exact is None:
        return None
    folder = path.with_suffix(".exact")
    folder.mkdir()
    with WeightsFile(folder / WEIGHTS) as own:
        _save(*compiled.exact, own, folder / MODEL)
    return folder


def _save(graph: ir.Model, routed: ir.Model | None, weights: WeightsFile, path: Path) -> None:
    save_graph(graph, weights, path)
    if routed is not None:
        save_graph(routed, weights, path.with_name(routed_file(path.name)))


def load_graph(plan: Plan, graph: Path, routed: bool, atol: float | None = None) -> Subject:
    """The saved `graph`, and with `routed` the routed one beside it, to be held to `atol`, by default the plan's.

    Raises:
        VerificationError: ONNX Runtime cannot load one of them.
    """
    beside = graph.with_name(routed_file(graph.name)) if routed else None
    return Subject.load(graph, plan.atol if atol is None else atol, beside)


def prove(plan: Plan, branches: Sequence[Branch], subject: Subject, exact: Path | None) -> tuple[ParityRow, ...]:
    """Verifies the graphs of `subject`, and those in the folder `exact` by the tolerance of fp32; removes that folder.

    Raises:
        VerificationError: a graph differs from PyTorch.
    """
    subjects = [subject]
    if exact is not None:
        subjects.append(load_graph(plan, exact / MODEL, subject.routed is not None, min(plan.atol, TOLERANCES["fp32"])))
    rows = verify(branches, plan, subjects, graph_outputs(plan))
    if exact is not None:
        shutil.rmtree(exact)
    return rows
