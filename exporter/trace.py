"""Traces one task of a pruned model into an ONNX graph with dynamic batch and sequence axes."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from .errors import ExportError
from .plan import Plan, Task
from .prune import activate
from .quiet import quiet

# The axes' names in the graph, as transformers and Optimum call them.
BATCH, SEQUENCE = "batch", "sequence"
# Any shape does; two different numbers above one keep torch.export from taking an axis for a constant or for the other axis.
EXAMPLE_BATCH, EXAMPLE_SEQUENCE = 2, 7
_MODEL = "model"


class _SingleTask(nn.Module):
    """The model as a function from the plan's inputs, by position, to the active head's logits."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.inputs, values, strict=True))).logits
        return logits


@contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes millions of small objects that stay: looking for garbage among them takes a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _example_inputs(plan: Plan) -> tuple[torch.Tensor, ...]:
    """Unpadded int64 inputs in the plan's order."""
    shape = (EXAMPLE_BATCH, min(EXAMPLE_SEQUENCE, plan.max_length))
    return tuple(torch.full(shape, int(name == "attention_mask"), dtype=torch.int64) for name in plan.inputs)


def trace(model: Any, plan: Plan, task: Task) -> ir.Model:
    """The graph of one task, unoptimised: task weights keep their names, which the vectoriser binds.

    The only output is "logits"; initializers are called like the model's parameters.

    Raises:
        ExportError: torch.export cannot trace the model, or fixed an axis that must stay dynamic.
    """
    activate(model, task.name)
    axes = {0: torch.export.Dim(BATCH, min=1), 1: torch.export.Dim(SEQUENCE, min=1, max=plan.max_length)}
    try:
        # torch prints whole graphs when it fails; its exception says enough.
        with quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad(), _no_collection():
            program = torch.onnx.export(
                _SingleTask(model, plan.inputs),
                _example_inputs(plan),
                dynamo=True,
                input_names=list(plan.inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in plan.inputs),),
                opset_version=plan.opset,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # torch.export hands on whatever the model's code raises
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ExportError(
            f"torch.export cannot trace the task {task.name!r} of {type(model).__name__}: {reason[0] if reason else error}"
        ) from error
    assert program is not None  # it is None with f= alone
    graph = program.model.graph
    prefix = f"{_MODEL}."
    for value in list(graph.initializers.values()):
        value.name = str(value.name).removeprefix(prefix)
    for name, value in zip(plan.inputs, graph.inputs, strict=True):
        if value.shape != ir.Shape([BATCH, SEQUENCE]):
            raise ExportError(
                f"torch.export fixed an axis of the input {name!r} of {type(model).__name__}: expected [batch, sequence], "
                f"found {value.shape}"
            )
    return program.model
