"""Drift: the difference of a task's logits and predictions before and after pruning or rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from exporter.errors import ExportError
from exporter.texts.batches import Batch, Calibration
from runtime.bundle import OUTPUTS

_LOGITS = ("logits",)
_FIELDS = {str(head): fields for head, fields in OUTPUTS.items()}
# Heads whose outputs are numbers, not scores of which the largest is the prediction.
_NUMBERS = ("regression", "sentence_embedding")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Drift:
    """The effect of a change on one task, measured on the user's texts.

    Compares a pruned model with the original, or the exported graph with eager PyTorch of the pruned model.

    Attributes:
        task: the task name.
        mean_abs: mean |after - before| of the logits; for logits per token, over the real tokens.
        max_abs: maximum |after - before|.
        argmax_agreement: share of equal predictions, 0 to 1, over texts; over real tokens (tagging, language models); over
            starts and ends (question answering); over texts and labels (multi-label: both above or both below 0); None for
            regression and embeddings.
        metric: "accuracy" (multi-label: over texts and labels), "pearson" (regression; the mean over its outputs), or None
            without labels, or for a head that does not predict one label per text.
        metric_before: the metric before the change; None without a metric, and for Pearson if all predictions or labels are
            equal.
        metric_after: the metric after the change.
        changed_by_padding: share of predictions that change if the text is padded to 128 tokens, 0 to 1, counted as in
            `argmax_agreement` on at most 256 texts; only for a graph in int8, otherwise None.
        changed_by_batch: the same for texts in batches of 32.
    """

    task: str
    mean_abs: float
    max_abs: float
    argmax_agreement: float | None
    metric: str | None = None
    metric_before: float | None = None
    metric_after: float | None = None
    changed_by_padding: float | None = None
    changed_by_batch: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return asdict(self)


def drift(
    original: Any,
    pruned: Any,
    activate: Callable[[Any], None],
    calibration: Calibration,
    *,
    task: str,
    head: str,
    labels: Sequence[str] = (),
) -> Drift:
    """Run both models on the calibration texts and compare them.

    Args:
        original: the model before the change, in evaluation mode and with frozen fusion temperatures.
        pruned: the model after the change, in the same state.
        activate: makes either model a single-task model of `task`.
        calibration: the texts.
        task: the task name.
        head: the head type in a bundle.
        labels: the names of the head's labels, in the order of the logits.

    Raises:
        ExportError: a label in the file is not a label of the head, or the head does not take single texts (multiple choice).
    """
    for model in (original, pruned):
        activate(model)
    comparison = Comparison(calibration, task=task, head=head, labels=labels)
    for batch in calibration.batches:
        comparison.add(batch, _run(original, batch, task, head), _run(pruned, batch, task, head))
    return comparison.result()


class Comparison:
    """Accumulates the differences between two models of one task, batch by batch."""

    def __init__(self, calibration: Calibration, *, task: str, head: str, labels: Sequence[str] = ()) -> None:
        """Start a comparison.

        Args:
            calibration: the texts, with labels or without.
            task: the task name.
            head: the head type in a bundle.
            labels: the names of the head's labels, in the order of the logits.

        Raises:
            ExportError: a label in the file is not in `labels`.
        """
        self._task, self._head = task, head
        self._expected = label_values(calibration, head, labels)
        self._differences = _Differences(head)
        self._rows: list[int] = []
        self._logits: list[tuple[Array, Array]] = []

    def add(self, batch: Batch, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        """Add one batch of outputs of both models: field of the head's output -> [rows, …]."""
        for name in before:
            self._differences.add(before[name], after[name], batch.mask)
        if self._expected is not None:
            self._rows += batch.rows
            self._logits.append((before["logits"], after["logits"]))

    def result(self) -> Drift:
        """Return the result over all batches so far."""
        if self._expected is None:
            return Drift(self._task, *self._differences.result())
        metric = "pearson" if self._head == "regression" else "accuracy"
        columns = [np.concatenate(column) for column in zip(*self._logits, strict=True)]
        values = [_metric(self._head, column, self._expected[self._rows]) for column in columns]
        return Drift(self._task, *self._differences.result(), metric, *values)


def _run(model: Any, batch: Batch, task: str, head: str) -> dict[str, Array]:
    feeds = {name: torch.from_numpy(value) for name, value in batch.feeds.items()}
    try:
        with torch.inference_mode():
            found = model(**feeds)
    except (RuntimeError, ValueError) as error:  # a head that reshapes the batch, for example to choices
        raise ExportError(
            f"the task {task!r} cannot run on single texts, so that its drift cannot be measured: {error}"
        ) from error
    return {name: found[name].float().cpu().numpy() for name in _FIELDS.get(head, _LOGITS) if found.get(name) is not None}


def predictions(head: str, logits: Array) -> Array:
    """Return what a head predicts: whether each label applies (multi-label), else the number of the largest logit."""
    found: Array = logits > 0 if head == "multilabel" else logits.argmax(-1)
    return found


class _Differences:
    """Sums of differences and of equal predictions over batches."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._total = self._count = self._equal = self._answers = 0.0
        self._greatest = 0.0

    def add(self, before: Array, after: Array, mask: Array) -> None:
        """Add one batch of one output, [batch, …]; [batch, sequence, …] is compared on real tokens only."""
        if self._head == "question_answering":
            real = mask.astype(bool)
            choices = [predictions(self._head, np.where(real, values, -np.inf)) for values in (before, after)]
            differences = np.abs(after - before)[real]
        elif before.ndim == 3 and before.shape[:2] == mask.shape:
            before, after = (values[mask.astype(bool)] for values in (before, after))
            choices = [predictions(self._head, values) for values in (before, after)]
            differences = np.abs(after - before)
        else:
            choices = [predictions(self._head, values) for values in (before, after)]
            differences = np.abs(after - before)
        self._total += float(differences.sum(dtype=np.float64))
        self._count += differences.size
        self._greatest = max(self._greatest, float(differences.max(initial=0.0)))
        self._equal += float((choices[0] == choices[1]).sum())
        self._answers += choices[0].size

    def result(self) -> tuple[float, float, float | None]:
        """Return the mean and maximum difference, and the share of equal predictions."""
        agreement = None if self._head in _NUMBERS else self._equal / self._answers
        return self._total / self._count, self._greatest, agreement


def _metric(head: str, logits: Array, expected: Array) -> float | None:
    if head == "regression":
        pairs = list(zip(logits.T.astype(np.float64), expected.T, strict=True))
        if any(np.ptp(values) == 0 for pair in pairs for values in pair):
            return None  # the correlation with a constant is undefined
        return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))
    return float(np.mean((logits > 0) == expected if head == "multilabel" else logits.argmax(-1) == expected))


def label_values(calibration: Calibration, head: str, labels: Sequence[str]) -> Array | None:
    """Return the labels: ids [texts], 0 or 1 [texts, labels] for multi-label, float64 [texts, outputs] for regression.

    None without labels, and for heads that do not predict one label per text.

    Raises:
        ExportError: a label is not one of the head's; the message contains the line.
    """
    if calibration.labels is None or head not in ("classification", "regression", "multilabel", "image_classification"):
        return None
    found: list[Any] = []
    for line, label in zip(calibration.lines, calibration.labels, strict=True):
        where = f"{calibration.source}, line {line}"
        if head == "multilabel":
            ids = [label_id(one, labels, where) for one in (label if isinstance(label, list) else [label])]
            if len(set(ids)) < len(ids):
                raise ExportError(
                    f"{where}: the label {label!r} names a label twice: expected a list of the names or numbers of the labels "
                    "that apply, and [] where none does; a 0 or 1 for each label is not read"
                )
            found.append([float(number in ids) for number in range(len(labels))])
        elif head == "regression":
            found.append(_numbers(label, len(labels) or 1, where))
        else:
            found.append(label_id(label, labels, where))
    return np.array(found)


def label_id(label: Any, labels: Sequence[str], where: str) -> int:
    """Return the number of a label, given by its name or number.

    Raises:
        ExportError: there is no such label, or a number may be either a name or a number.
    """
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if any(name.isdecimal() and number != int(name) < len(labels) for number, name in enumerate(labels)):
        raise ExportError(
            f"{where}: expected the name of a label as a text, one of {', '.join(map(repr, labels))}, found {label!r}: a "
            "number could be the name of one label and the number of another"
        )
    try:
        number = int(label) if isinstance(label, str | int) else -1
    except ValueError:
        number = -1
    if not 0 <= number < len(labels):
        raise ExportError(f"{where}: unknown label {label!r}; labels: {', '.join(labels)}, or 0 to {len(labels) - 1}")
    return number


def _numbers(label: Any, count: int, where: str) -> list[float]:
    found = [_number(number, where) for number in (label if isinstance(label, list) else [label])]
    if len(found) != count:
        expected = "one number" if count == 1 else f"a list of {count} numbers"
        raise ExportError(f"{where}: the label {label!r} has {len(found)} numbers: expected {expected} for a regression")
    return found


def _number(label: Any, where: str) -> float:
    try:
        number = float(label) if isinstance(label, str | int | float) and not isinstance(label, bool) else np.nan
    except (OverflowError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ExportError(f"{where}: the label {repr(label)[:60]} is not a number: expected a number for a regression task")
    return float(number)
