"""Exports one variant of a bundle: from pruned models to a verified graph on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.checkpoints.load import Checkpoint
from exporter.compile.build import Compiled, compile_plan, stored_form
from exporter.compile.pipeline import branch_size, graph_size
from exporter.models.compositions import describe
from exporter.notes import (
    decided_in_fp64,
    default_prompts,
    missing_effects,
    nothing_quantized,
    other_inputs,
    shared_weights,
    unread_inputs,
    without_pooling,
)
from exporter.plan import Plan, TaskPadding
from exporter.prune.fusion_members import FusionReport, drifts, measure_fusions, with_members
from exporter.prune.sizes import adapter_parameters
from exporter.prune.task_groups import TaskGroup, prune, shared_part
from exporter.report import ExportedTask, GraphReport, VariantReport
from exporter.slots import save_slots
from exporter.stages import Stages
from exporter.texts.batches import Calibration
from exporter.texts.drift import Drift
from exporter.trace.padded_groups import PaddedGroup, pad_groups, with_padded
from exporter.trace.trace import trace_group, traceable
from exporter.traced_group import TracedGroup
from exporter.verify.evaluate import Evaluation, evaluate
from exporter.verify.library_reference import is_comparable
from exporter.verify.probe import make_probe
from exporter.verify.rounding import measure_rounding
from exporter.verify.saved import load_graph, verify_saved
from exporter.write.save import save_graphs, save_probe, variant_entry
from exporter.write.stored_groups import (
    StoredGroup,
    load_stored_groups,
    make_stored_groups,
    save_stored_groups,
    stored_group_files,
)
from exporter.write.weights_file import WeightsFile
from runtime.bundle import ParityRow, PassRow, VariantEntry, routed_file


@dataclass(frozen=True, eq=False)
class BundleRequest:
    """The part of an export that is the same for all variants of a bundle.

    Attributes:
        model: the whole model; variants are pruned copies of it.
        calibration: texts, or scores of fusion members; None without a calibration file.
        keep_fused: how many members of each fusion stay in each layer; None for all.
        evaluation: the texts on which the graph is compared with PyTorch.
        routed: the options that require a routed graph, in which each row selects a task; empty for no such graph.
        extendable: whether to store the groups to which tasks can be added.
        slots: slots of each structure in a graph with slots; None for no such graph. It needs `extendable`.
        compared: the checkpoint with whose library a comparable graph is compared; None if it was compared before.
    """

    model: Any
    calibration: Calibration | None
    keep_fused: int | None
    evaluation: Evaluation
    routed: Sequence[str]
    extendable: bool
    slots: int | None = None
    compared: Checkpoint | None = None


@dataclass(frozen=True)
class _Pruned:
    """A plan with its task groups, and what was measured on calibration texts."""

    plan: Plan
    task_groups: tuple[TaskGroup, ...]
    fusions: tuple[FusionReport, ...] = ()
    drift: tuple[Drift, ...] = ()


def export_variant(
    request: BundleRequest, plan: Plan, task_groups: tuple[TaskGroup, ...], path: Path, weights: WeightsFile, stages: Stages
) -> tuple[VariantEntry, VariantReport]:
    """Write the graph of a plan and verify it.

    The routed graph and the stored groups are written next to it where they are requested.

    Args:
        request: what all variants have in common.
        plan: the tasks of this variant.
        task_groups: its tasks by structure, with their pruned models.
        path: file of the graph.
        weights: file of the weights of all variants.
        stages: measures the stages.

    Returns:
        The entry of the manifest, and the report.

    Raises:
        ExportError: the model cannot be traced or compiled.
        VerificationError: a graph differs from PyTorch, or its predictions differ on too many texts.
    """
    pruned = _Pruned(plan, task_groups)
    if (texts := request.calibration) is not None:
        with stages("calibrate", f"(texts: {len(texts.texts)})" if texts.texts else ""):
            pruned = _calibrate(request, pruned, texts)
    plan, task_groups = pruned.plan, pruned.task_groups
    with stages("trace", f"(drop: {plan.drop}, tasks: {len(plan.tasks)}, structures: {len(task_groups)})"):
        padded, apart = pad_groups(task_groups)
        groups = [with_padded(each, trace_group(each.template, plan)) for each in padded]
    # Before the compiler takes the groups apart.
    unread = [group.unread for group in groups]
    costs = weight_costs(groups)
    with stages("compile"):
        compiled = compile_plan(groups, plan, texts, request.routed or None, keep=request.extendable)
    stored: list[StoredGroup] = []
    with stages("save"):
        reference = save_graphs((compiled.graph, compiled.routed), compiled.reference, weights, path)
        if request.extendable:
            stored = _store_groups(compiled, padded, weights, path)
    with stages("verify"):
        graph = load_graph(plan, path, bool(request.routed))
        library = request.compared.reference if request.compared is not None and is_comparable(plan) else None
        verified = verify_saved(plan, task_groups, graph, reference, library)
        parity = verified.rows
        made = make_probe(plan, graph.graph, task_groups, verified.probed)
        probe = save_probe(made, plan, measure_rounding(plan, made, path), path)
        notes = (
            *unread_inputs(plan, [(each.template.model, each.tasks) for each in padded], unread),
            *other_inputs([each.template.model for each in padded]),
            *missing_effects(plan, task_groups, verified.probed),
            *without_pooling(plan),
            *default_prompts(task_groups),
            *shared_weights(plan, task_groups),
            *nothing_quantized(plan, compiled.graph),
            *apart,
        )
    exact = dict(verified.exact)
    if request.slots is not None:
        with stages("slots"):
            names = stored_group_files(path.name, len(stored))
            exact |= save_slots(load_stored_groups(path, names), task_groups, plan, request.slots, weights, path)
    notes = (*notes, *decided_in_fp64(exact))
    evaluation: tuple[Drift, ...] = ()
    if request.evaluation.texts:
        with stages("evaluate"):
            evaluation = evaluate(task_groups, plan, graph.graph, request.evaluation)
    routed = routed_file(path.name) if request.routed else ""
    padding = {name: zeros.cost for each in padded for name, zeros in each.padding.items()}
    entry = variant_entry(task_groups, plan, path.name, parity, compiled.passes, probe, routed, padding)
    group_of = {task.name: number for number, each in enumerate(padded) for task in each.tasks}
    report = report_variant(plan, task_groups, compiled, entry, parity, group_of)
    tasks = with_costs(report.tasks, costs, padding)
    return entry, replace(report, tasks=tasks, fusions=pruned.fusions, drift=pruned.drift, evaluation=evaluation, notes=notes)


def _store_groups(compiled: Compiled, padded: Sequence[PaddedGroup], weights: WeightsFile, path: Path) -> list[StoredGroup]:
    """Write the groups to which tasks can be added next to the graph."""
    # By the patched models, in which some weights have other names.
    patched = [each.template if each.weights else traceable(each.template) for each in padded]
    structures = [each.structure for each in padded]
    stored = make_stored_groups([stored_form(group) for group in compiled.kept], patched, structures)
    save_stored_groups(stored, weights, path)
    return stored


def weight_costs(groups: Sequence[TracedGroup]) -> dict[str, tuple[int, Mapping[str, int]]]:
    """Return task -> the bytes of the weights that it does not share, and their forms as in `TracedGroup`."""
    return {name: (group.bytes_of(name), group.forms) for group in groups for name in group.tasks}


def with_costs(
    tasks: Sequence[ExportedTask], costs: Mapping[str, tuple[int, Mapping[str, int]]], padding: Mapping[str, TaskPadding]
) -> tuple[ExportedTask, ...]:
    """Add the bytes and forms of the weights of each task, and what the padding to the sizes of its group costs.

    Args:
        tasks: tasks of a report.
        costs: what `weight_costs` returns.
        padding: task -> what its padding costs, for tasks that are padded.
    """
    return tuple(
        replace(task, bytes=costs[task.name][0], forms=costs[task.name][1], padding=padding.get(task.name)) for task in tasks
    )


def _calibrate(request: BundleRequest, pruned: _Pruned, texts: Calibration) -> _Pruned:
    """Choose the fusion members that stay, and measure what pruning changes."""
    plan, task_groups = pruned.plan, pruned.task_groups
    attention = measure_fusions(task_groups, texts, request.keep_fused)
    if request.keep_fused is not None:
        plan = with_members(plan, attention)
        task_groups = prune(request.model, plan)
    fusions = tuple(each for reports in attention.values() for each in reports)
    return _Pruned(plan, task_groups, fusions, drifts(request.model, plan, task_groups, texts))


def report_variant(
    plan: Plan,
    task_groups: tuple[TaskGroup, ...],
    compiled: Compiled,
    entry: VariantEntry,
    parity: tuple[ParityRow, ...],
    group_of: Mapping[str, int],
) -> VariantReport:
    """Report the tasks of a plan, without what is measured on calibration and evaluation texts.

    Args:
        plan: the tasks.
        task_groups: their pruned models.
        compiled: the graphs.
        entry: the entry of the manifest.
        parity: the rows of the verification.
        group_of: task -> number of its group.
    """
    parameters, stored = adapter_parameters(task_groups)
    return VariantReport(
        model=entry.model,
        routed=entry.routed,
        tasks=_tasks(plan, group_of),
        drop=plan.drop,
        shared=shared_part(task_groups, plan),
        adapter_parameters=parameters,
        stored_adapter_parameters=stored,
        graph=_graph_report(compiled.graph, compiled.passes),
        fusions=(),
        drift=(),
        parity=parity,
        evaluation=(),
    )


def _tasks(plan: Plan, group_of: Mapping[str, int]) -> tuple[ExportedTask, ...]:
    return tuple(
        ExportedTask(task.name, describe(task.setup), task.head.kind, task.head.labels, task.drop, group_of[task.name])
        for task in plan.tasks
    )


def _graph_report(graph: ir.Model, passes: Sequence[PassRow]) -> GraphReport:
    nodes, size = graph_size(graph)
    branch_nodes, task_bytes = branch_size(graph)
    return GraphReport(
        nodes=nodes,
        trunk_nodes=nodes - branch_nodes,
        branch_nodes=branch_nodes,
        initializer_bytes=size,
        shared_bytes=size - task_bytes,
        task_bytes=task_bytes,
        passes=tuple(passes),
    )
