"""Reads a request: the model, its tasks and their labelled texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exporter.advise.exports import selected
from exporter.advise.labels import Labels
from exporter.advise.request import Request
from exporter.checkpoints.load import load
from exporter.errors import ExportError
from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan
from exporter.planning.make_plan import check_drop, make_options, make_plan
from exporter.prune.task_groups import prune
from exporter.targets import needs_ranges
from exporter.texts.batches import Calibration, read_calibration
from exporter.verify.padding import with_padding_side

# Tokens; texts are truncated to this length if the model has no limit.
_MAX_LENGTH = 512
_TIMED_LENGTH = 64  # tokens of a call without --shape
_TARGETS = ("portable", "cpu")


@dataclass(frozen=True, eq=False)
class Data:
    """A model with its labelled texts.

    Attributes:
        source: the model, for people.
        plan: the plan of the tasks with labelled texts.
        tasks: the same tasks as the argument of an export.
        left_out: the other tasks.
        texts: task -> its texts.
        labels: task -> their labels.
        ranges: texts for the ranges of activations in int8, if the target needs them.
        last: the largest drop to consider.
        shape: batch and length of the timed calls.
    """

    source: str
    plan: Plan
    tasks: Any
    left_out: tuple[str, ...]
    texts: Mapping[str, Calibration]
    labels: Mapping[str, Labels]
    ranges: Calibration | None
    last: int
    shape: tuple[int, int]


def check_request(request: Request) -> None:
    """Check what needs no model.

    Raises:
        ExportError: an option is missing or out of range.
    """
    if not request.evaluation:
        raise ExportError("advice is measured on labelled texts: add --evaluation TASK=FILE for each task")
    if request.target not in _TARGETS:
        raise ExportError(
            f"advice measures the CPU provider: target must be one of {', '.join(_TARGETS)}, found {request.target!r}"
        )
    if request.shape is not None and (len(request.shape) != 2 or min(request.shape) < 1):
        raise ExportError(f"the shape must be BATCHxLENGTH, such as 1x64, found {'x'.join(map(str, request.shape))}")
    for name, number in (("limit", request.limit), ("threads", request.threads)):
        if number is not None and number < 1:
            raise ExportError(f"{name} must be at least 1, found {number}")
    make_options(precision=request.precision, target=request.target, int8_ranges=request.int8_ranges)


def read(request: Request) -> Data:
    """Load the model and read the texts.

    Raises:
        ExportError: an unsupported model, or bad input.
    """
    checkpoint = load(request.model, None, request.adapters, request.fusions, request.pooling or None, request.heads or None)
    options = make_options(precision=request.precision, target=request.target, int8_ranges=request.int8_ranges)
    names = [task.name for task in make_plan(checkpoint, request.tasks, 0, options).tasks]
    if unknown := [name for name in request.evaluation if name not in names]:
        raise ExportError(f"unknown task {', '.join(map(repr, unknown))} in evaluation; tasks: {', '.join(names)}")
    chosen = [name for name in names if name in request.evaluation]
    left_out = tuple(name for name in names if name not in chosen)
    tasks = selected(request, chosen) if left_out else request.tasks
    plan = make_plan(checkpoint, tasks, 0, options)
    last = plan.layers if request.max_drop is None else check_drop(request.max_drop, plan.layers)
    inputs = [entry.name for entry in plan.inputs]
    length = plan.max_lengths.get(SEQUENCE, _MAX_LENGTH)
    batch, timed = request.shape or (1, min(_TIMED_LENGTH, length))
    if timed > length:
        raise ExportError(
            f"the model takes lengths up to {length}, found the shape {batch}x{timed}: pass --shape {batch}x{length}"
        )
    # As in the exported folder: the side on which texts are padded is that which the model allows.
    tokenizer, _ = with_padding_side(checkpoint.tokenizer, prune(checkpoint.model, plan), plan)
    texts = {name: read_calibration(request.evaluation[name], tokenizer, inputs, length, request.limit) for name in chosen}
    if scores := [each.source for each in texts.values() if each.scores is not None]:
        raise ExportError(f"the evaluation file {scores[0]!r} contains scores of fusions: expected texts with labels")
    labels = {task.name: Labels(task, texts[task.name], tokenizer, length) for task in plan.tasks}
    ranges = None
    if needs_ranges(request.target, request.precision, request.int8_ranges):
        if request.calibration is None:
            raise ExportError(f"{request.precision} with these ranges measures them on texts: add --calibration FILE")
        ranges = read_calibration(request.calibration, tokenizer, inputs, length)
    return Data(checkpoint.source, plan, tasks, left_out, texts, labels, ranges, last, (batch, timed))
