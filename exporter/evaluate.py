"""How often the exported graph answers as PyTorch does, on the user's own texts: what a lower precision costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from runtime.bundle import OUTPUTS

from .calibration import Batch, Calibration, read_calibration
from .drift import Array, Drift, compare
from .errors import ExportError, VerificationError
from .inputs import SEQUENCE
from .plan import Plan, Task
from .prune import Branch
from .save import graph_outputs
from .verify import eager

# Where the model sets no limit, texts are cut here.
_MAX_LENGTH = 512


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Task -> its texts, and the share of answers that may differ from PyTorch's; None for any share."""

    texts: Mapping[str, Calibration]
    max_disagreement: float | None


def open_evaluation(
    files: str | Path | Mapping[str, str | Path] | None, max_disagreement: float | None, tokenizer: Any, plan: Plan
) -> Evaluation:
    """Reads the texts. One file is for all tasks and may then have no labels, a mapping gives each task its own.

    Raises:
        ExportError: an unknown task, a share that is none, or a file that is missing or damaged.
    """
    if max_disagreement is not None:
        if not isinstance(max_disagreement, int | float) or not 0 <= max_disagreement <= 1 or math.isnan(max_disagreement):
            raise ExportError(f"max_disagreement must be a share from 0 to 1, found {max_disagreement!r}")
        if files is None:
            raise ExportError("max_disagreement needs texts to measure on: add --evaluation [TASK=]FILE")
    if files is None:
        return Evaluation({}, None)
    names, inputs = [task.name for task in plan.tasks], [entry.name for entry in plan.inputs]
    chosen = dict(files) if isinstance(files, Mapping) else dict.fromkeys(names, files)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ExportError(f"evaluation names {', '.join(map(repr, unknown))}, which is no task; tasks: {', '.join(names)}")
    read = {
        path: read_calibration(path, tokenizer, inputs, plan.max_lengths.get(SEQUENCE, _MAX_LENGTH))
        for path in dict.fromkeys(map(Path, chosen.values()))
    }
    found = {name: read[Path(path)] for name, path in chosen.items()}
    for texts in found.values():
        if texts.scores is not None:
            raise ExportError(f"the evaluation file {texts.source!r} holds scores of fusions: expected texts")
        if texts.labels is not None and not isinstance(files, Mapping) and len(names) > 1:
            raise ExportError(f"the labels of {texts.source!r} belong to one task: name it, as TASK={texts.source}")
    return Evaluation(found, max_disagreement)


def evaluate(branches: Sequence[Branch], plan: Plan, graph: Path, evaluation: Evaluation) -> tuple[Drift, ...]:
    """The saved `graph` against single-task eager PyTorch of the pruned model, task by task.

    Raises:
        VerificationError: a task answers otherwise on more than the allowed share of its texts (tokens, for tagging).
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = graph_outputs(plan)
    tasks = {task.name: (branch, task) for branch in branches for task in branch.tasks}
    rows = []
    for name, own in evaluation.texts.items():
        branch, task = tasks[name]
        fields = OUTPUTS[task.head.kind]

        def answer(batch: Batch, names: Sequence[str] = outputs[name], fields: Sequence[str] = fields) -> dict[str, Array]:
            feeds = {entry.name: batch.feeds[entry.name] for entry in plan.inputs}
            return dict(zip(fields, session.run(list(names), feeds), strict=True))

        def reference(batch: Batch, branch: Branch = branch, task: Task = task) -> dict[str, Array]:
            return dict(zip(OUTPUTS[task.head.kind], eager(branch, plan, task, batch.feeds), strict=True))

        rows.append(compare(own, reference, answer, task=name, head=task.head.kind, labels=task.head.labels))
    _check(rows, evaluation.max_disagreement)
    return tuple(rows)


def _check(rows: Sequence[Drift], allowed: float | None) -> None:
    agreements = {row.task: row.argmax_agreement for row in rows if row.argmax_agreement is not None}
    failed = {name: 1 - share for name, share in agreements.items() if allowed is not None and 1 - share > allowed}
    if failed:
        lines = [f"  {name}: {share:.2%}" for name, share in failed.items()]
        raise VerificationError(
            f"the graph differs from PyTorch on more than {allowed:.2%} of the evaluation texts; nothing was written:\n"
            + "\n".join(lines)
        )
