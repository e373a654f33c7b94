"""Evaluation on the user's texts: how often the predictions of the exported graph and of PyTorch agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.errors import ExportError, VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.texts.batches import Calibration, read_calibration
from exporter.texts.drift import Array, Comparison, Drift
from exporter.verify.eager import eager
from exporter.verify.independence import changed_predictions
from runtime.bundle import OUTPUTS

# Tokens; texts are truncated to this length if the model has no limit.
_MAX_LENGTH = 512


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation texts and the tolerance.

    Attributes:
        texts: task name -> texts; tasks without texts are absent.
        max_disagreement: the allowed share of predictions that differ from PyTorch's, 0 to 1; None for no limit.
    """

    texts: Mapping[str, Calibration]
    max_disagreement: float | None


def open_evaluation(
    files: str | Path | Mapping[str, str | Path] | None, max_disagreement: float | None, tokenizer: Any, plan: Plan
) -> Evaluation:
    """Read the evaluation texts.

    Args:
        files: one file without labels for all tasks, or task name -> file; None for no evaluation.
        max_disagreement: the allowed share of predictions that differ, 0 to 1; None for no limit.
        tokenizer: a fast tokenizer.
        plan: the tasks and inputs of the graph.

    Raises:
        ExportError: a task is unknown, `max_disagreement` is out of range, or a file is missing or damaged.
    """
    if max_disagreement is not None:
        if not isinstance(max_disagreement, int | float) or not 0 <= max_disagreement <= 1 or math.isnan(max_disagreement):
            raise ExportError(f"max_disagreement must be a share from 0 to 1, found {max_disagreement!r}")
        if files is None:
            raise ExportError("max_disagreement needs evaluation texts: add --evaluation [TASK=]FILE")
    if files is None:
        return Evaluation({}, None)
    names, inputs = [task.name for task in plan.tasks], [entry.name for entry in plan.inputs]
    chosen = dict(files) if isinstance(files, Mapping) else dict.fromkeys(names, files)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ExportError(f"unknown task {', '.join(map(repr, unknown))} in evaluation; tasks: {', '.join(names)}")
    read = {
        path: read_calibration(path, tokenizer, inputs, plan.max_lengths.get(SEQUENCE, _MAX_LENGTH))
        for path in dict.fromkeys(map(Path, chosen.values()))
    }
    found = {name: read[Path(path)] for name, path in chosen.items()}
    for texts in found.values():
        if texts.scores is not None:
            raise ExportError(f"the evaluation file {texts.source!r} contains scores of fusions: expected texts")
        if texts.labels is not None and not isinstance(files, Mapping) and len(names) > 1:
            raise ExportError(f"the labels of {texts.source!r} belong to one task: choose it with TASK={texts.source}")
    return Evaluation(found, max_disagreement)


def evaluate(task_groups: Sequence[TaskGroup], plan: Plan, graph: Any, evaluation: Evaluation) -> tuple[Drift, ...]:
    """Compare the exported graph with single-task eager PyTorch of the pruned model, task by task.

    The graph computes all tasks at once, so that each batch runs once for all tasks with the same texts.

    Args:
        task_groups: the pruned models.
        plan: the plan of the graph.
        graph: the ONNX Runtime session of the graph.
        evaluation: the texts and the tolerance.

    Raises:
        VerificationError: the predictions of a task differ on more than the allowed share of its texts (for tagging, tokens).
    """
    tasks = {task.name: (task_group, task) for task_group in task_groups for task in task_group.tasks}
    found: dict[str, Drift] = {}
    for texts in {id(texts): texts for texts in evaluation.texts.values()}.values():
        own = [tasks[name] for name, its in evaluation.texts.items() if its is texts]
        found.update({drift.task: drift for drift in _compare(own, plan, graph, texts)})
    rows = tuple(found[name] for name in evaluation.texts)
    _check(rows, evaluation.max_disagreement)
    return rows


def _compare(tasks: Sequence[tuple[TaskGroup, Task]], plan: Plan, graph: Any, texts: Calibration) -> list[Drift]:
    """Compare the given tasks, which have the same texts."""
    outputs = plan.outputs
    names = [name for _, task in tasks for name in outputs[task.name]]
    comparisons = [Comparison(texts, task=task.name, head=task.head.kind, labels=task.head.labels) for _, task in tasks]
    for batch in texts.batches:
        feeds = {entry.name: batch.feeds[entry.name] for entry in plan.inputs}
        results: dict[str, Array] = dict(zip(names, graph.run(names, feeds), strict=True))
        for comparison, (task_group, task) in zip(comparisons, tasks, strict=True):
            fields = OUTPUTS[task.head.kind]
            expected = dict(zip(fields, eager(task_group, plan, task, batch.feeds), strict=True))
            own = {field: results[name] for field, name in zip(fields, outputs[task.name], strict=True)}
            comparison.add(batch, expected, own)
    found = [comparison.result() for comparison in comparisons]
    if plan.precision != "int8":
        return found  # no value depends on more than its own text
    changed = changed_predictions([task for _, task in tasks], plan, graph, texts)
    return [_with_changes(drift, *changed.get(drift.task, (None, None))) for drift in found]


def _with_changes(drift: Drift, padding: float | None, batch: float | None) -> Drift:
    return replace(drift, changed_by_padding=padding, changed_by_batch=batch)


def _check(rows: Sequence[Drift], allowed: float | None) -> None:
    agreements = {row.task: row.argmax_agreement for row in rows if row.argmax_agreement is not None}
    failed = {name: 1 - share for name, share in agreements.items() if allowed is not None and 1 - share > allowed}
    if failed:
        lines = [f"  {name}: {share:.2%}" for name, share in failed.items()]
        raise VerificationError(
            f"the graph differs from PyTorch on more than {allowed:.2%} of the evaluation texts; nothing was written:\n"
            + "\n".join(lines)
        )
