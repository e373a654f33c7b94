"""Chooses the fusion members that stay, and reports what pruning changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from exporter.models.compositions import fuses_of
from exporter.models.fusion import Kept
from exporter.models.inputs import SEQUENCE
from exporter.models.library import library_of
from exporter.plan import Plan, Task
from exporter.prune.fusion_attention import attention_tables
from exporter.prune.fusion_scores import AttentionTable, choose
from exporter.prune.task_groups import TaskGroup, prune
from exporter.targets import needs_ranges
from exporter.texts.batches import Calibration, read_calibration
from exporter.texts.drift import Drift, drift

# Where the model sets no limit, texts are cut here.
_MAX_LENGTH = 512


@dataclass(frozen=True)
class FusionReport:
    """The attention of one fusion's members, and the members that stay: layer -> names; None where all do."""

    table: AttentionTable
    kept: Kept | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        kept = None if self.kept is None else {str(layer): list(names) for layer, names in self.kept.items()}
        return {**self.table.to_dict(), "kept": kept}


def open_calibration(path: str | Path | None, keep: int | None, tokenizer: Any, plan: Plan) -> Calibration | None:
    """Reads the calibration file, if there is one.

    Raises:
        ExportError: fusions are to be pruned without a file or a fusion; the file or the tokenizer is missing or damaged.
    """
    fused = any(True for task in plan.tasks for _ in fuses_of(task.setup))
    if keep is not None and not fused:
        raise ExportError("keep_fused was given, but no task is a fusion: leave it out, or name a task with a Fuse")
    if keep is not None and path is None:
        raise ExportError("keep_fused needs a calibration file with texts or given scores: add --calibration FILE")
    if path is None and needs_ranges(plan.target, plan.precision):
        raise ExportError(
            f"{plan.precision} for the target {plan.target} quantizes by the numbers that texts bring about: add "
            "--calibration FILE with some hundred typical texts"
        )
    if path is None:
        return None
    if tokenizer is None and Path(path).suffix.lower() != ".json":
        raise ExportError("the calibration texts need a tokenizer: save one beside the model, or give scores in a .json file")
    names = [entry.name for entry in plan.inputs]
    read = read_calibration(path, tokenizer, names, plan.max_lengths.get(SEQUENCE, _MAX_LENGTH))
    if read.scores is not None and needs_ranges(plan.target, plan.precision):
        what = f"{plan.precision} for the target {plan.target}"
        raise ExportError(f"{what} needs calibration texts, found scores in {str(path)!r}: give a file of texts")
    return read


def measure_fusions(
    task_groups: Sequence[TaskGroup], calibration: Calibration, keep: int | None
) -> dict[str, list[FusionReport]]:
    """Task -> a report per fusion, with the `keep` most important members of each layer chosen.

    Raises:
        ExportError: `keep` is below one or more than every fusion has; scores that do not fit.
    """
    found = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            if any(True for _ in fuses_of(task.setup)):
                tables = attention_tables(task_group.activate(task), task.name, task.setup, calibration)
                found[task.name] = [FusionReport(table, None if keep is None else choose(table, keep)) for table in tables]
    return found


def with_members(plan: Plan, reports: Mapping[str, Sequence[FusionReport]]) -> Plan:
    """The plan in which fusions keep the members chosen."""
    return replace(plan, tasks=tuple(_with_members(task, reports.get(task.name, ())) for task in plan.tasks))


def _with_members(task: Task, reports: Sequence[FusionReport]) -> Task:
    kept = {report.table.fusion: report.kept for report in reports if report.kept is not None}
    if not kept:
        return task
    # By position: members are called differently in tasks that one trace serves.
    places = [
        {layer: [report.table.members.index(name) for name in names] for layer, names in report.kept.items()}
        for report in reports
        if report.kept is not None
    ]
    return replace(task, kept=kept, structure=task.structure + json.dumps(places))


def drifts(model: Any, plan: Plan, task_groups: Sequence[TaskGroup], calibration: Calibration) -> tuple[Drift, ...]:
    """Each task as it is exported against the task with all its adapters in all layers, on the calibration texts.

    Labels in the file are those of the fusions that are calibrated with it.
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
