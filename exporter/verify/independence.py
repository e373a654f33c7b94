"""How often a text's prediction changes with padding and with the other texts of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan, Task
from exporter.texts.batches import Calibration
from exporter.texts.drift import Array, predictions

# More texts would take longer than the comparison with PyTorch.
_TEXTS = 256
_WIDTH, _ROWS = 128, 32
# Heads with predictions per text or token.
_HEADS = frozenset(("classification", "multilabel", "tagging", "question_answering", "masked_lm", "causal_lm"))


def changed_predictions(tasks: Sequence[Task], plan: Plan, graph: Any, texts: Calibration) -> dict[str, tuple[float, float]]:
    """Compare the predictions for single texts with those for the same texts padded, and for batches of them.

    Args:
        tasks: the tasks with these texts.
        plan: the plan of the graph.
        graph: the ONNX Runtime session of the graph.
        texts: at most 256 of them are compared, in the order of the file.

    Returns:
        Task -> the share of predictions that change if the text is padded to 128 tokens, and the share that change in batches
        of 32 texts; counted as in `Drift.argmax_agreement`. Tasks with other heads, such as regression, are absent.
    """
    compared = [task for task in tasks if task.head.kind in _HEADS]
    if not compared:
        return {}
    names = [name for task in compared for name in plan.outputs[task.name]]
    rows = _rows(plan, texts)[:_TEXTS]
    width = min(_WIDTH, plan.max_lengths.get(SEQUENCE, _WIDTH))
    counts = {task.name: np.zeros((2, 2)) for task in compared}
    for start in range(0, len(rows), _ROWS):
        chunk = rows[start : start + _ROWS]
        together = _run(graph, names, chunk, plan, 0)
        for number, row in enumerate(chunk):
            alone, padded = (_run(graph, names, [row], plan, least) for least in (0, width))
            others = {name: output[number : number + 1] for name, output in together.items()}
            for task in compared:
                outputs = plan.outputs[task.name]
                for change, found in enumerate((padded, others)):
                    counts[task.name][change] += _changed(
                        task, [alone[name] for name in outputs], [found[name] for name in outputs]
                    )
    return {name: (float(padded[0] / padded[1]), float(batched[0] / batched[1])) for name, (padded, batched) in counts.items()}


def _rows(plan: Plan, texts: Calibration) -> list[dict[str, Array]]:
    """The texts without padding, in the order of the file: input -> [tokens]."""
    found = {
        row: {entry.name: batch.feeds[entry.name][index][batch.mask[index].astype(bool)] for entry in plan.inputs}
        for batch in texts.batches
        for index, row in enumerate(batch.rows)
    }
    return [found[row] for row in sorted(found)]


def _run(graph: Any, names: Sequence[str], rows: Sequence[Mapping[str, Array]], plan: Plan, least: int) -> dict[str, Array]:
    """The outputs for one batch, padded on the right to `least` tokens or the longest text."""
    width = max(least, *(len(row["input_ids"]) for row in rows))
    feeds = {}
    for entry in plan.inputs:
        filler = (plan.padding_id or 0) if entry.name == "input_ids" else 0
        padded = [np.pad(row[entry.name], (0, width - len(row[entry.name])), constant_values=filler) for row in rows]
        feeds[entry.name] = np.stack(padded)
    return dict(zip(names, graph.run(names, feeds), strict=True))


def _changed(task: Task, before: Sequence[Array], after: Sequence[Array]) -> tuple[int, int]:
    """How many predictions differ, and how many there are; what follows the tokens of `before` is padding."""
    different = count = 0
    for one, other in zip(before, after, strict=True):
        per_token = task.head.kind not in ("classification", "multilabel")
        tokens = one.shape[1]
        labels, others = (predictions(task.head.kind, each[:, :tokens] if per_token else each) for each in (one, other))
        different, count = different + int((labels != others).sum()), count + labels.size
    return different, count
