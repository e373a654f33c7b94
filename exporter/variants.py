"""One variant of a bundle: from pruned models to a verified graph on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from runtime.bundle import ParityRow, PassRow, VariantEntry

from .calibration import Calibration
from .drift import Drift
from .evaluate import Evaluation, evaluate
from .groups import Compiled, compile_plan, load_graph, prove, save, trace_group
from .passes import branch_size, graph_size
from .plan import Plan
from .progress import Stages
from .prune import Branch, prune, shared_part
from .prune_members import FusionReport, drifts, measure_fusions, with_members
from .report import GraphReport, TaskReport, VariantReport
from .save import routed_file, variant_entry
from .setups import describe
from .sharing import adapter_parameters
from .templates import make_templates, save_templates
from .weights_file import WeightsFile


@dataclass(frozen=True, eq=False)
class Request:
    """What was asked for, the same for all variants of a bundle.

    Attributes:
        model: the whole model, of which variants are pruned copies.
        calibration: texts, or scores of fusion members; None where no file was given.
        keep_fused: how many members of each fusion stay in each layer; None for all.
        evaluation: the texts on which the graph is compared with PyTorch.
        routed: whether there is a graph whose rows choose their task.
        extendable: whether templates are kept, to which tasks can be added.
    """

    model: Any
    calibration: Calibration | None
    keep_fused: int | None
    evaluation: Evaluation
    routed: bool
    extendable: bool


@dataclass(frozen=True)
class _Pruned:
    """A plan with its branches, and what calibration texts say of them."""

    plan: Plan
    branches: tuple[Branch, ...]
    fusions: tuple[FusionReport, ...] = ()
    drift: tuple[Drift, ...] = ()


def export_variant(
    request: Request, plan: Plan, branches: tuple[Branch, ...], path: Path, weights: WeightsFile, stages: Stages
) -> tuple[VariantEntry, VariantReport]:
    """Writes the graph of `plan` to `path` and proves it; returns what the manifest and the report say of it. Beside it: the
    routed graph and the templates, where they are asked for.

    Raises:
        ExportError: the model cannot be traced or compiled.
        VerificationError: a graph differs from PyTorch, or answers otherwise too often.
    """
    pruned = _Pruned(plan, branches)
    if (texts := request.calibration) is not None:
        with stages("calibrate", f"on {len(texts.texts)} text(s)" if texts.texts else ""):
            pruned = _calibrate(request, pruned, texts)
    plan, branches = pruned.plan, pruned.branches
    with stages("trace", f"{len(branches)} structure(s) of {len(plan.tasks)} task(s), drop {plan.drop}"):
        groups = [trace_group(branch, plan) for branch in branches]
    with stages("compile"):
        compiled = compile_plan(groups, plan, texts, request.routed, keep=request.extendable)
    with stages("save"):
        exact = save(compiled, weights, path)
        if request.extendable:
            save_templates(make_templates(compiled.kept, branches), weights, path)
    with stages("verify"):
        graph = load_graph(plan, path, request.routed)
        parity = prove(plan, branches, graph, exact)
    answers: tuple[Drift, ...] = ()
    if request.evaluation.texts:
        with stages("evaluate"):
            answers = evaluate(branches, plan, graph.graph, request.evaluation)
    routed = routed_file(path.name) if request.routed else ""
    entry = variant_entry(branches, plan, path.name, parity, compiled.passes, routed)
    report = report_variant(plan, branches, compiled, entry, parity)
    return entry, replace(report, fusions=pruned.fusions, drift=pruned.drift, evaluation=answers)


def _calibrate(request: Request, pruned: _Pruned, texts: Calibration) -> _Pruned:
    """Chooses the members of fusions that stay, and measures what pruning changes."""
    plan, branches = pruned.plan, pruned.branches
    attention = measure_fusions(branches, texts, request.keep_fused)
    if request.keep_fused is not None:
        plan = with_members(plan, attention)
        branches = prune(request.model, plan)
    fusions = tuple(each for reports in attention.values() for each in reports)
    return _Pruned(plan, branches, fusions, drifts(request.model, plan, branches, texts))


def report_variant(
    plan: Plan, branches: tuple[Branch, ...], compiled: Compiled, entry: VariantEntry, parity: tuple[ParityRow, ...]
) -> VariantReport:
    """The report of the plan's tasks, without what calibration and evaluation texts tell."""
    parameters, stored = adapter_parameters(branches)
    return VariantReport(
        model=entry.model,
        routed=entry.routed,
        tasks=_task_reports(plan),
        drop=plan.drop,
        shared=shared_part(branches, plan),
        adapter_parameters=parameters,
        stored_adapter_parameters=stored,
        graph=_graph_report(compiled.graph, compiled.passes),
        fusions=(),
        drift=(),
        parity=parity,
        evaluation=(),
    )


def _task_reports(plan: Plan) -> tuple[TaskReport, ...]:
    number = {task.name: index for index, group in enumerate(plan.groups) for task in group}
    return tuple(
        TaskReport(task.name, describe(task.setup), task.head.kind, task.head.labels, task.drop, number[task.name])
        for task in plan.tasks
    )


def _graph_report(graph: ir.Model, passes: Sequence[PassRow]) -> GraphReport:
    nodes, size = graph_size(graph)
    branch_nodes, branch_bytes = branch_size(graph)
    return GraphReport(
        nodes=nodes,
        trunk_nodes=nodes - branch_nodes,
        branch_nodes=branch_nodes,
        initializer_bytes=size,
        trunk_bytes=size - branch_bytes,
        branch_bytes=branch_bytes,
        passes=tuple(passes),
    )
