"""Conversion of an export request and a checkpoint to plans."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.checkpoints.load import Checkpoint
from exporter.errors import ExportError
from exporter.models.architectures import check_architecture
from exporter.models.compositions import names_of, task_name
from exporter.models.heads import find_head
from exporter.models.inputs import check_vocabulary, max_lengths, model_inputs
from exporter.models.library import library_of, owner_of
from exporter.models.own_tasks import OwnModel
from exporter.models.rotary import switch_length
from exporter.plan import Plan, Task
from exporter.planning.choose_tasks import choose_setups, saved_heads
from exporter.targets import INT8_RANGES, PRECISIONS, TARGETS, TOLERANCES
from runtime.bundle import OUTPUTS, InputEntry

DEFAULT_OPSET = 20
OPSETS = range(17, 25)


@dataclass(frozen=True)
class CompileOptions:
    """The validated compilation options.

    Attributes:
        opset: ONNX operator set version.
        precision: a precision of `exporter.targets.PRECISIONS`.
        target: a key of `exporter.targets.TARGETS`.
        atol: parity tolerance relative to max(1, max |eager|).
        int8_ranges: ranges of activations in int8, of `exporter.targets.INT8_RANGES`; None for the default of the target.
    """

    opset: int
    precision: str
    target: str
    atol: float
    int8_ranges: str | None = None


def make_options(
    opset: int | None = None,
    atol: float | None = None,
    precision: str = "fp32",
    target: str = "portable",
    int8_ranges: str | None = None,
) -> CompileOptions:
    """Validate the compilation options.

    Args:
        opset: ONNX operator set version; None for the default of 20.
        atol: parity tolerance relative to max(1, max |eager|); None for the default of the precision.
        precision: a precision of `exporter.targets.PRECISIONS`.
        target: a key of `exporter.targets.TARGETS`.
        int8_ranges: how activations get their ranges in int8; None for the default of the target.

    Raises:
        ExportError: an option is out of range, or the target does not support the precision or the ranges.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    if not isinstance(opset, int) or opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, found {opset!r}")
    _check_target(target, precision)
    _check_ranges(target, precision, int8_ranges)
    atol = TOLERANCES[precision] if atol is None else atol
    if not isinstance(atol, int | float) or not 0 < atol < math.inf:
        raise ExportError(f"atol must be a finite number above 0, found {atol!r}")
    return CompileOptions(opset, precision, target, atol, int8_ranges)


def _check_target(target: str, precision: str) -> None:
    if target not in TARGETS:
        raise ExportError(f"target must be one of {', '.join(TARGETS)}, found {target!r}")
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision not in TARGETS[target]:
        able = [name for name, precisions in TARGETS.items() if precision in precisions]
        raise ExportError(
            f"the target {target} supports {', '.join(TARGETS[target])}, found {precision}: choose one of these, or for "
            f"{precision} one of the targets {', '.join(able)}"
        )


def _check_ranges(target: str, precision: str, int8_ranges: str | None) -> None:
    if int8_ranges is None:
        return
    if precision != "int8":
        raise ExportError(f"int8_ranges is for the precision int8, found {int8_ranges!r} with {precision}: omit it")
    if int8_ranges not in INT8_RANGES[target]:
        supported = ", ".join(INT8_RANGES[target])
        raise ExportError(f"int8_ranges for the target {target} must be one of {supported}, found {int8_ranges!r}")


_DEFAULT = make_options()


def make_plan(
    checkpoint: Checkpoint,
    tasks: Sequence[str] | Mapping[str, Any] | None,
    drop: int | Mapping[str, int],
    options: CompileOptions = _DEFAULT,
) -> Plan:
    """Validate the request against the model.

    Args:
        checkpoint: the loaded model with its tokenizer and saved setup.
        tasks: task names, or task name -> setup; None for the checkpoint's setup, or all adapters with a head.
        drop: number of lowest layers without adapters, or task name -> that number.
        options: the compilation options.

    Raises:
        ExportError: a task, head, adapter method or drop cannot be exported.
    """
    model, tokenizer, setup = checkpoint.model, checkpoint.tokenizer, checkpoint.setup
    check_architecture(model)
    layers = library_of(model).layers_of(model)
    check_vocabulary(model, tokenizer)
    setups = choose_setups(model, tasks, setup)
    drops = _drops(drop, layers, list(setups))
    heads = saved_heads(setups, checkpoint.head) if tasks is None and setup is not None else {}
    chosen = tuple(
        _task(model, name, each, drops[name], heads.get(name), checkpoint.configs.get(str(each), {}))
        for name, each in setups.items()
    )
    images = getattr(checkpoint.processor, "size", None)
    inputs = model_inputs(model, tokenizer, {task.head.kind for task in chosen}, images)
    check_names(chosen, inputs)
    return Plan(
        tasks=chosen,
        layers=layers,
        inputs=inputs,
        max_lengths=max_lengths(model, tokenizer, inputs),
        padding_id=getattr(model.config, "pad_token_id", None),
        end_id=model.config.eos_token_id if getattr(model.config, "is_encoder_decoder", False) else None,
        opset=options.opset,
        precision=options.precision,
        target=options.target,
        atol=options.atol,
        int8_ranges=options.int8_ranges,
        switch_length=switch_length(model),
    )


def make_plans(
    checkpoint: Checkpoint,
    tasks: Sequence[str] | Mapping[str, Any] | None,
    drop: int | Sequence[int] | Mapping[str, int],
    options: CompileOptions,
) -> list[Plan]:
    """Make one plan per drop.

    Args:
        checkpoint: as in `make_plan`.
        tasks: as in `make_plan`.
        drop: as in `make_plan`, or a list of numbers with one variant each.
        options: the compilation options.

    Raises:
        ExportError: a task, head, adapter method or drop cannot be exported.
    """
    drops = list(drop) if isinstance(drop, Sequence) and not isinstance(drop, str) else [drop]
    if not drops:
        raise ExportError("drop must be at least one number of layers, found an empty list")
    plans = [make_plan(checkpoint, tasks, each, options) for each in drops]
    for number, count in Counter(plan.drop for plan in plans).items():
        if count > 1:
            raise ExportError(f"drop contains {number} twice: give each variant a different drop")
    return plans


def _task(model: Any, name: str, setup: Any, drop: int, saved_head: str | None, config: Mapping[str, Any]) -> Task:
    owner = owner_of(model, setup)
    # A task can have another name than its adapter, which a head in modules_to_save is called after.
    adapter = setup if isinstance(setup, str) and (hasattr(owner, "peft_config") or isinstance(owner, OwnModel)) else name
    head = find_head(owner, adapter, saved_head or _head_name(model, name, setup), config)
    structure = {
        "setup": library_of(model).structure_of(model, name, setup, drop),
        "head": [head.structure, OUTPUTS[head.kind]],
    }
    return Task(name, setup, head, drop, {}, json.dumps(structure, sort_keys=True, default=str), names_of(setup))


def _head_name(model: Any, task: str, setup: Any) -> str:
    """The head with the task's name, or the one that the library activates with the setup."""
    return task if task in getattr(model, "heads", {}) else task_name(setup)


def _drops(drop: object, layers: int, tasks: list[str]) -> dict[str, int]:
    if not isinstance(drop, Mapping):
        return dict.fromkeys(tasks, check_drop(drop, layers))
    unknown = [name for name in drop if name not in tasks]
    if unknown:
        raise ExportError(f"unknown task {', '.join(map(repr, unknown))} in drop; tasks: {', '.join(tasks)}")
    return {name: check_drop(drop.get(name, 0), layers) for name in tasks}


def check_drop(drop: object, layers: int) -> int:
    """Return `drop` as a number of layers.

    Raises:
        ExportError: `drop` is not an integer from 0 to `layers`.
    """
    try:
        number = operator.index(drop)  # type: ignore[arg-type]  # numpy integers are accepted
    except TypeError:
        number = None
    if number is None or isinstance(drop, bool):
        raise ExportError(f"drop must be an integer from 0 to {layers}, found {drop!r}")
    if not 0 <= number <= layers:
        raise ExportError(f"drop must be from 0 to {layers}, the model's number of layers; found {number}")
    return number


def check_names(tasks: Sequence[Task], inputs: Sequence[InputEntry]) -> None:
    """Check that the names of the graph's inputs and outputs are unique.

    Raises:
        ExportError: two tasks have one output name, or an output has the name of an input or one that is not UTF-8.
    """
    for name, count in Counter(name for task in tasks for name in task.outputs).items():
        if count > 1:
            raise ExportError(f"two tasks have the same output name {name!r}: rename one of them")
        if name in {entry.name for entry in inputs}:
            raise ExportError(f"the task {name!r} has the name of a graph input: rename the adapter")
        if any("\ud800" <= each <= "\udfff" for each in name):  # bytes of a command line that are not UTF-8
            raise ExportError(f"the name of the task {name!r} must be UTF-8: rename the adapter")
