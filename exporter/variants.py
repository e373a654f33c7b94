"""One variant of a bundle: from pruned models to a verified graph on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from runtime.bundle import ParityRow, PassRow, VariantEntry

from .calibration import Calibration
from .drift import Drift
from .evaluate import Evaluation, evaluate
from .groups import Compiled, compile_plan, prove, save, trace_group
from .load import Checkpoint
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


def export_variant(
    plan: Plan,
    branches: tuple[Branch, ...],
    checkpoint: Checkpoint,
    texts: Calibration | None,
    keep_fused: int | None,
    evaluation: Evaluation,
    path: Path,
    weights: WeightsFile,
    stages: Stages,
    routed: bool = False,
    extendable: bool = False,
) -> tuple[VariantEntry, VariantReport]:
    """Writes the graph of `plan` to `path` and proves it; returns what the manifest and the report say of it. Beside it: the
    routed graph and the templates, where they are asked for.

    Raises:
        ExportError: the model cannot be traced or compiled.
        VerificationError: a graph differs from PyTorch, or answers otherwise too often.
    """
    attention: dict[str, list[FusionReport]] = {}
    drift: tuple[Drift, ...] = ()
    if texts is not None:
        with stages("calibrate", f"on {len(texts.texts)} text(s)" if texts.texts else ""):
            attention = measure_fusions(branches, texts, keep_fused)
            plan = with_members(plan, attention)
            branches = prune(checkpoint.model, plan)
            drift = drifts(checkpoint.model, plan, branches, texts)
    with stages("trace", f"{len(branches)} structure(s) of {len(plan.tasks)} task(s), drop {plan.drop}"):
        groups = [trace_group(branch, plan) for branch in branches]
    with stages("compile"):
        compiled = compile_plan(groups, plan, texts, routed, keep=extendable)
    with stages("save"):
        exact = save(compiled, weights, path)
        if extendable:
            save_templates(make_templates(compiled.kept, branches), weights, path)
    with stages("verify"):
        parity = prove(plan, branches, path, exact, routed)
    answers: tuple[Drift, ...] = ()
    if evaluation.texts:
        with stages("evaluate"):
            answers = evaluate(branches, plan, path, evaluation)
    entry = variant_entry(branches, plan, path.name, parity, compiled.passes, routed_file(path.name) if routed else "")
    report = report_variant(plan, branches, compiled, entry, parity)
    found = tuple(each for reports in attention.values() for each in reports)
    return entry, replace(report, fusions=found, drift=drift, evaluation=answers)


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
