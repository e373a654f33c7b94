"""Tracing of one task of a pruned model to an ONNX graph with dynamic batch and sequence axes."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
from torch import nn

from exporter.errors import ExportError
from exporter.models.binding import generic_names, remove_others, task_weights
from exporter.models.inputs import BATCH, DECODER_SEQUENCE, SEQUENCE, sizes, used_inputs
from exporter.models.peft_folded import forms_of
from exporter.models.peft_modules import base_of
from exporter.models.peft_prompts import prompt_positions
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.targets import MIN_TRACED_OPSET
from exporter.trace.decompose import light_decompositions
from exporter.trace.explain import SIZES, causes, explain
from exporter.trace.fast_trace import fast_trace
from exporter.trace.patches import patch_for_tracing
from exporter.trace.torch_internals import identify_axes
from exporter.traced_group import TracedGroup
from runtime.bundle import OUTPUTS, HeadType, InputEntry

# Distinct sizes above 1, so that torch.export neither specializes an axis nor identifies two axes.
EXAMPLE_SIZES = {BATCH: 2, SEQUENCE: 7, DECODER_SEQUENCE: 5, "words": 3}
_MODEL = "model"
# Attention as matrix products and a softmax in every opset, the form that the passes know. From opset 23 on, torch.onnx writes
# the operator Attention, in which ONNX Runtime takes the smallest finite number of a mask for minus infinity: a row without
# tokens becomes zero, in PyTorch it is an average.
_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scaled_dot_product_attention.default: aten_scaled_dot_product_attention
}


class _SingleTask(nn.Module):
    """The model as a function of the plan's inputs, by position, that returns the fields of the active head's output.

    Of outputs with an axis of positions, those before `start`, which are of a prompt, are left out.
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[InputEntry, ...], used: tuple[str, ...], fields: tuple[str, ...], start: int
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.used = used
        self.fields = fields
        self.start = start

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        identify_axes([entry.shape for entry in self.inputs], values)
        given = {entry.name: value for entry, value in zip(self.inputs, values, strict=True) if entry.name in self.used}
        output = self.model(**given)
        if missing := [field for field in self.fields if field not in output]:
            raise ExportError(
                f"{type(base_of(self.model)).__name__} returns {', '.join(output)} and no {' and '.join(missing)}: expected a "
                "class whose head returns them, such as BertForQuestionAnswering for questions"
            )
        if self.start:
            return tuple(output[field][:, self.start :] for field in self.fields)
        return tuple(output[field] for field in self.fields)


@contextmanager
def light_trace() -> Iterator[None]:
    """Trace with shortcuts, light decompositions and without garbage collection.

    Tracing creates millions of small objects that stay alive; garbage collection would take 10 % of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with light_decompositions(), fast_trace():
            yield
    finally:
        if enabled:
            gc.enable()


def _example_inputs(plan: Plan) -> tuple[torch.Tensor, ...]:
    """Unpadded inputs in the plan's order."""
    shapes = sizes(plan.inputs, {axis: min(size, plan.max_lengths.get(axis, size)) for axis, size in EXAMPLE_SIZES.items()})
    return tuple(
        torch.full(shapes[entry.name], int(entry.name == "attention_mask"), dtype=getattr(torch, entry.dtype))
        for entry in plan.inputs
    )


def _dynamic_axes(plan: Plan) -> tuple[dict[int, Any], ...]:
    named = {axis for entry in plan.inputs for axis in entry.shape if not axis.isdigit()}
    dims = {axis: torch.export.Dim(axis, min=1, max=plan.max_lengths.get(axis)) for axis in sorted(named)}
    return tuple({number: dims[axis] for number, axis in enumerate(entry.shape) if axis in dims} for entry in plan.inputs)


def _refusal(error: BaseException, handled: BaseException | None) -> ExportError | None:
    """The ExportError of a patch in the chain of causes; torch.export wraps it."""
    return next((cause for cause in causes(error, handled) if isinstance(cause, ExportError)), None)


def _check_wrapper(model: Any, plan: Plan, kind: HeadType) -> None:
    """Raise ExportError if the transformers model runs but not the class of PEFT around it, which is for texts."""
    own, base = type(model).__name__, base_of(model)
    if base is model:
        return
    given = _given(plan, kind)
    if isinstance(_failure(model, given), TypeError) and _failure(base, given) is None:
        raise ExportError(
            f"{own} cannot run {type(base).__name__}, which does not have all arguments that it passes: create the adapters "
            "without a task_type (task_type=None in their configuration)"
        )


def _given(plan: Plan, kind: HeadType) -> dict[str, torch.Tensor]:
    inputs = zip((entry.name for entry in plan.inputs), _example_inputs(plan), strict=True)
    return {name: value for name, value in inputs if name in used_inputs(plan.inputs, kind)}


def _failure(model: Any, given: dict[str, torch.Tensor]) -> Exception | None:
    try:
        with quiet(), torch.no_grad():
            model(**given)
    except Exception as error:  # whatever the code of the model raises
        return error
    return None


def traceable(task_group: TaskGroup) -> TaskGroup:
    """Return the task group with a patched copy of its model that torch.export can trace.

    The copy is only for tracing; the reference for verification is the unpatched model.
    """
    model = shared_copy(task_group.model)
    patch_for_tracing(model)
    return TaskGroup(task_group.tasks, model)


def trace(task_group: TaskGroup, plan: Plan) -> ir.Model:
    """Trace the first task of a group.

    Args:
        task_group: a group returned by `traceable`.
        plan: the graph's inputs and opset.

    Returns:
        The graph without optimizations, so that task weights keep their names, by which they are bound to tasks. Outputs have
        the names of the fields of the head's output, initializers the names of the model's parameters.

    Raises:
        ExportError: torch.export cannot trace the model, or it specialized a dynamic axis.
    """
    task = task_group.tasks[0]
    model = task_group.activate(task)
    fields = OUTPUTS[task.head.kind]
    names = tuple(entry.name for entry in plan.inputs)
    start = prompt_positions(model, task.head.kind)
    handled = sys.exception()  # the caller may trace while it handles another error, which says nothing about this model
    if "input_ids" not in names:
        _check_wrapper(model, plan, task.head.kind)
    try:
        # On failure torch prints whole graphs; its exception is sufficient.
        with quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad(), light_trace():
            program = torch.onnx.export(
                _SingleTask(model, plan.inputs, used_inputs(plan.inputs, task.head.kind), fields, start),
                _example_inputs(plan),
                dynamo=True,
                input_names=list(names),
                output_names=list(fields),
                dynamic_shapes=(_dynamic_axes(plan),),
                opset_version=max(plan.opset, MIN_TRACED_OPSET),
                custom_translation_table=_TRANSLATIONS,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # torch.export passes on any exception of the model's code
        if (refusal := _refusal(error, handled)) is not None:
            raise refusal from error
        _check_wrapper(model, plan, task.head.kind)
        runs = _failure(model, _given(plan, task.head.kind)) is None
        raise ExportError(
            f"torch.export cannot trace the task {task.name!r} of {type(model).__name__}: {explain(error, handled, runs)}"
        ) from error
    assert program is not None  # it is only None with f=
    graph = program.model.graph
    prefix = f"{_MODEL}."
    for value in list(graph.initializers.values()):
        value.name = str(value.name).removeprefix(prefix)
    for entry, value in zip(plan.inputs, graph.inputs, strict=True):
        expected = ir.Shape([int(axis) if axis.isdigit() else axis for axis in entry.shape])
        if value.shape != expected:
            raise ExportError(
                f"torch.export specialized an axis of the input {entry.name!r} of {type(model).__name__}: expected {expected}, "
                f"found {value.shape}; {SIZES}"
            )
    return program.model


def trace_group(task_group: TaskGroup, plan: Plan) -> TracedGroup:
    """Trace the first task of a group and collect the weights of all its tasks."""
    task_group = traceable(task_group)
    tensors = task_weights(task_group.model, task_group.tasks)
    names, forms = generic_names(task_group.model, task_group.tasks[0]), forms_of(task_group.model)
    # Each weight of the model costs torch.export time, also one that the traced task does not have. PEFT reads the weights of
    # the active task when it activates another one.
    task_group.activate(task_group.tasks[0])
    remove_others(task_group.model, task_group.tasks)
    graph = trace(task_group, plan)
    weights = {name: [each.numpy() for each in found] for name, found in tensors.items() if name in graph.graph.initializers}
    return TracedGroup(tuple(task.name for task in task_group.tasks), graph, weights, names, forms)
