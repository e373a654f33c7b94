"""The side on which texts are padded without a change of their logits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.models.inputs import SEQUENCE
from exporter.models.peft_prompts import TOKENWISE
from exporter.models.quiet_libraries import quiet
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TOLERANCES
from exporter.verify.eager import eager
from exporter.verify.random_inputs import make_inputs

_logger = logging.getLogger(__name__)
_ROWS, _WIDTH = 2, 12
_SIDES = ("right", "left")


def with_padding_side(tokenizer: Any, task_groups: Sequence[TaskGroup], plan: Plan) -> tuple[Any, bool]:
    """Return the tokenizer with the padding side that the model allows, and whether logits depend on padding on either side.

    PyTorch runs texts without padding, padded on the right and padded on the left. The tokenizer's side stays if the logits are
    equal. With padding on the left, for example, absolute positions shift, and heads that read the first token read padding.

    Args:
        tokenizer: a fast tokenizer, which is not changed, or None.
        task_groups: the pruned models.
        plan: their plan.

    Returns:
        The tokenizer for the bundle, and whether its texts must not be padded, because each side changes their logits.
    """
    if tokenizer is None or not {"input_ids", "attention_mask"} <= {entry.name for entry in plan.inputs}:
        return tokenizer, False
    side, counts = _side(tokenizer, task_groups, plan)
    wanted = {"padding_side": side, "truncation_side": tokenizer.truncation_side}
    # save_pretrained only writes a side that the tokenizer was loaded with.
    if all(getattr(tokenizer, name) == tokenizer.init_kwargs.get(name, "right") == each for name, each in wanted.items()):
        return tokenizer, counts
    tokenizer = copy.deepcopy(tokenizer)
    for name, each in wanted.items():
        setattr(tokenizer, name, each)
        tokenizer.init_kwargs[name] = each
    return tokenizer, counts


def _side(tokenizer: Any, task_groups: Sequence[TaskGroup], plan: Plan) -> tuple[str, bool]:
    padding = tokenizer.pad_token_id
    padding = plan.padding_id or 0 if padding is None else padding
    found: dict[str, dict[str, float]] = {}
    for task_group in task_groups:
        task = task_group.tasks[0]
        # A parser also reads the positions of words, which its caller gives.
        if task.head.kind != "dependency_parsing":
            with quiet():
                found[task.name] = _differences(task_group, task, plan, padding)
    worst = {side: max((ratios[side] for ratios in found.values() if ratios), default=0.0) for side in _SIDES}
    own = str(tokenizer.padding_side)
    if worst[own] <= 1:
        return own if any(found.values()) else _SIDES[0], False
    side = min(_SIDES, key=lambda each: worst[each])
    if worst[side] > 1:
        names = ", ".join(repr(name) for name, ratios in found.items() if ratios and ratios[side] > 1)
        _logger.warning(
            f"PyTorch's logits of the task(s) {names} depend on padding on either side: predict() puts only texts of one "
            "length into a batch, which takes longer; if the model has no pad_token_id, set config.pad_token_id instead"
        )
    return side, worst[side] > 1


def _differences(task_group: TaskGroup, task: Task, plan: Plan, padding: int) -> dict[str, float]:
    """Return the largest difference per side, in multiples of the tolerance; empty if the model cannot run such texts."""
    width = min(_WIDTH, plan.max_lengths.get(SEQUENCE, _WIDTH))
    length = width // 2
    given = make_inputs(plan, _ROWS, length, masks="none") if length else {}
    try:
        alone = eager(task_group, plan, task, given)
    except Exception:  # the model's own, for example of ReFT, whose positions must be in the text; verification reports it
        return {}
    found = {}
    for side in _SIDES:
        start = 0 if side == "right" else width - length
        try:
            padded = eager(task_group, plan, task, _padded(plan, given, start, width, padding))
        except Exception:  # as above
            found[side] = np.inf
            continue
        if task.head.kind in TOKENWISE:
            padded = [logits[:, start : start + length] for logits in padded]
        found[side] = max(map(_ratio, alone, padded))
    return found


def _padded(plan: Plan, given: Mapping[str, np.ndarray], start: int, width: int, padding: int) -> dict[str, np.ndarray]:
    padded = dict(given)
    for entry in plan.inputs:
        if SEQUENCE in entry.shape:
            value = given[entry.name]
            fill = padding if entry.name == "input_ids" else 0
            padded[entry.name] = np.full((len(value), width), fill, value.dtype)
            padded[entry.name][:, start : start + value.shape[1]] = value
    return padded


def _ratio(expected: np.ndarray, found: np.ndarray) -> float:
    difference = np.abs(found - expected).max(initial=0.0) if found.shape == expected.shape else np.inf
    ratio = float(difference / (TOLERANCES["fp32"] * max(1.0, float(np.abs(expected).max(initial=0.0)))))
    return ratio if ratio == ratio else np.inf
