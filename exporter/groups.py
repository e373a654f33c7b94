"""From pruned models to one compiled graph, and the proof that it is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from runtime.bundle import ParityRow, PassRow

from .binding import task_weights
from .errors import ExportError
from .inputs import BATCH
from .passes import Group, compile_groups, target_passes
from .plan import Plan
from .prune import Branch
from .save import finish, graph_outputs
from .trace import trace, traceable
from .verify import verify


def trace_group(branch: Branch, plan: Plan) -> Group:
    """One trace for all tasks of one structure, and the weights of each."""
    branch = traceable(branch)
    graph = trace(branch, plan)
    weights = {
        name: [tensor.numpy() for tensor in tensors]
        for name, tensors in task_weights(branch.model, branch.tasks).items()
        if name in graph.graph.initializers
    }
    return Group(tuple(task.name for task in branch.tasks), graph, weights)


def compile_plan(groups: Sequence[Group], plan: Plan) -> tuple[ir.Model, list[PassRow]]:
    """The finished graph of all tasks.

    Raises:
        ExportError: a pass cannot work on this model.
    """
    try:
        graph, passes = compile_groups(groups, BATCH, target_passes(plan.target, plan.precision))
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error
    finish(graph, plan)
    return graph, passes


def prove(plan: Plan, branches: tuple[Branch, ...], graph: Path) -> tuple[ParityRow, ...]:
    """Verifies the saved `graph`.

    Raises:
        VerificationError: the graph differs from PyTorch.
    """
    return verify(branches, plan, graph, graph_outputs(plan))
