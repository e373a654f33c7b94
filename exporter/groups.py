"""From pruned models to one compiled graph, and from there to a verified folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from runtime.bundle import MODEL, ParityRow

from .binding import task_weights
from .errors import ExportError
from .inputs import BATCH
from .load import Checkpoint
from .passes import Group, PassReport, compile_groups
from .plan import Plan
from .prune import Branch
from .save import finish, graph_outputs, save_config, save_graph, save_manifest
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


def compile_plan(groups: Sequence[Group], plan: Plan) -> tuple[ir.Model, list[PassReport]]:
    """The finished graph of all tasks.

    Raises:
        ExportError: a pass cannot work on this model.
    """
    try:
        graph, passes = compile_groups(groups, BATCH)
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error
    finish(graph, plan)
    return graph, passes


def write(graph: ir.Model, plan: Plan, branches: tuple[Branch, ...], checkpoint: Checkpoint, folder: Path) -> None:
    """Everything but the manifest, which says that the rest is verified."""
    save_graph(graph, folder)
    processors = [each for each in (checkpoint.tokenizer, checkpoint.processor) if each is not None]
    save_config(branches[0].model, plan, processors, folder)


def prove(plan: Plan, branches: tuple[Branch, ...], checkpoint: Checkpoint, folder: Path) -> tuple[ParityRow, ...]:
    """Verifies what `write` wrote, and then writes the manifest.

    Raises:
        VerificationError: the graph differs from PyTorch.
    """
    parity = verify(branches, plan, folder / MODEL, graph_outputs(plan))
    save_manifest(branches, plan, checkpoint.tokenizer is not None, parity, folder)
    return parity
