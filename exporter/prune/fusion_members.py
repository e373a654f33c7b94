"""Choice of the fusion members to keep, and the effect of pruning on the predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from exporter.families import adapterhub_module
from exporter.models.compositions import Kept, fuses_of
from exporter.models.inputs import SEQUENCE
from exporter.models.library import library_of
from exporter.plan import Plan, Task
from exporter.prune.fusion_scores import AttentionTable, choose
from exporter.prune.task_groups import TaskGroup, prune
from exporter.targets import needs_ranges
from exporter.texts.batches import Calibration, read_calibration
from exporter.texts.drift import Drift, drift

# Tokens; texts are truncated to this length if the model has no limit.
_MAX_LENGTH = 512


@dataclass(frozen=True)
class FusionReport:
    """The scores of one fusion's members, and the choice made with them.

    Attributes:
        table: the scores by layer and member.
        kept: layer -> the members kept there; None if all members are kept.
    """

    table: AttentionTable
    kept: Kept | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        kept = None if self.kept is None else {str(layer): list(names) for layer, names in self.kept.items()}
        return {**self.table.to_dict(), "kept": kept}


def open_calibration(path: str | Path | None, keep: int | None, tokenizer: Any, plan: Plan) -> Calibration | None:
    """Read the calibration file, if one was given.

    Args:
        path: the file; None for no calibration.
        keep: the number of fusion members to keep per layer; None for all.
        tokenizer: a fast tokenizer; not needed for a file of scores.
        plan: the graph to export.

    Raises:
        ExportError: pruning or static quantization needs a file and none was given; there is no fusion to prune; the tokenizer
            is missing; or the file cannot be read.
    """
    fused = any(True for task in plan.tasks for _ in fuses_of(task.setup))
    if keep is not None and not fused:
        raise ExportError("keep_fused was given, but no task is a fusion: omit it, or add a task with a Fuse block")
    if keep is not None and path is None:
        raise ExportError("keep_fused needs a calibration file with texts or given scores: add --calibration FILE")
    if path is None and needs_ranges(plan.target, plan.precision, plan.int8_ranges):
        raise ExportError(
            f"{plan.precision} for the target {plan.target} measures the ranges of activations on texts: add "
            "--calibration FILE with a few hundred typical texts"
        )
    if path is None:
        return None
    if tokenizer is None and Path(path).suffix.lower() != ".json":
        raise ExportError("calibration texts need a tokenizer: save one in the model folder, or give scores in a .json file")
    names = [entry.name for entry in plan.inputs]
    read = read_calibration(path, tokenizer, names, plan.max_lengths.get(SEQUENCE, _MAX_LENGTH))
    if read.scores is not None and needs_ranges(plan.target, plan.precision, plan.int8_ranges):
        quantized = f"{plan.precision} for the target {plan.target}"
        raise ExportError(f"{quantized} needs calibration texts, found scores in {str(path)!r}: give a file of texts")
    return read


def measure_fusions(
    task_groups: Sequence[TaskGroup], calibration: Calibration, keep: int | None
) -> dict[str, list[FusionReport]]:
    """Score the members of all fusions and choose those to keep.

    Args:
        task_groups: the pruned models with all fusion members.
        calibration: texts to measure on, or scores.
        keep: the number of members to keep per layer; None for all.

    Returns:
        Task name -> a report per fusion; tasks without a fusion are absent.

    Raises:
        ExportError: `keep` is out of range, or the scores do not fit a fusion.
    """
    found = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            if any(True for _ in fuses_of(task.setup)):
                attention = adapterhub_module("prune", "fusion_attention", f"the task {task.name!r}")
                tables = attention.attention_tables(task_group.activate(task), task.name, task.setup, calibration)
                found[task.name] = [FusionReport(table, None if keep is None else choose(table, keep)) for table in tables]
    return found


def with_members(plan: Plan, reports: Mapping[str, Sequence[FusionReport]]) -> Plan:
    """Return the plan with only the chosen members in its fusions."""
    return replace(plan, tasks=tuple(_with_members(task, reports.get(task.name, ())) for task in plan.tasks))


def _with_members(task: Task, reports: Sequence[FusionReport]) -> Task:
    kept = {report.table.fusion: report.kept for report in reports if report.kept is not None}
    if not kept:
        return task
    # By index: tasks that share a trace have members with different names.
    kept_indices = [
        {layer: [report.table.members.index(name) for name in names] for layer, names in report.kept.items()}
        for report in reports
        if report.kept is not None
    ]
    return replace(task, kept=kept, structure=json.dumps({**json.loads(task.structure), "kept": kept_indices}, sort_keys=True))


def drifts(model: Any, plan: Plan, task_groups: Sequence[TaskGroup], calibration: Calibration) -> tuple[Drift, ...]:
    """Compare each task as exported with the same task before dropping and pruning, on the calibration texts.

    Labels in the file are only used for tasks with a fusion.

    Args:
        model: the user's model.
        plan: the plan that was pruned to `task_groups`.
        task_groups: the pruned models.
        calibration: texts to compare on; with scores only, nothing is compared.

    Raises:
        ExportError: a label is not a label of the task, or the head does not take single texts.
    """
    if not calibration.batches:
        return ()
    whole = replace(plan, tasks=tuple(replace(task, drop=0, kept={}) for task in plan.tasks))
    originals = {task.name: (task_group, task) for task_group in prune(model, whole) for task in task_group.tasks}
    found = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            original, unpruned = originals[task.name]
            setups = {id(original.model): unpruned, id(task_group.model): task}
            fused = any(True for _ in fuses_of(task.setup))
            found[task.name] = drift(
                original.model,
                task_group.model,
                lambda model, setups=setups: library_of(model).activate(model, setups[id(model)]),  # type: ignore[misc]
                calibration if fused else replace(calibration, labels=None),
                task=task.name,
                head=task.head.kind,
                labels=task.head.labels,
            )
    return tuple(found[task.name] for task in plan.tasks)
