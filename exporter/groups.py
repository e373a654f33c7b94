"""From pruned models to one compiled graph, and the proof that it is right."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from runtime.bundle import MODEL, WEIGHTS, ParityRow, PassRow

from .binding import task_weights
from .calibration import Calibration
from .errors import ExportError
from .inputs import BATCH
from .passes import JOINED, Group, Measure, compile_groups, run_passes, target_passes
from .plan import TOLERANCES, Plan
from .prune import Branch
from .ranges import measure_ranges
from .save import finish, graph_outputs, save_graph
from .trace import trace, traceable
from .verify import Subject, verify
from .weights_file import WeightsFile


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


@dataclass(frozen=True)
class Compiled:
    """Attributes:
    graph: the finished graph of all tasks, for the plan's target and in its precision.
    exact: the same in fp32 and standard operators where the precision is lower, else None: rounding can hide a mistake.
    passes: what each pass did, in order.
    """

    graph: ir.Model
    exact: ir.Model | None
    passes: tuple[PassRow, ...]


def compile_plan(groups: Sequence[Group], plan: Plan, texts: Calibration | None = None) -> Compiled:
    """Compiles the traced groups. `texts` tell the activations' ranges to a target that must know them.

    Raises:
        ExportError: a pass cannot work on this model.
    """
    exact = None
    try:
        graph, passes = compile_groups(groups, BATCH)
        if plan.rounds:
            exact = graph.clone()
            finish(exact, plan)
        graph = run_passes(graph, target_passes(plan.target, plan.precision, graph, _measure(texts)), JOINED, passes)
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error
    finish(graph, plan)
    return Compiled(graph, exact, tuple(passes))


def _measure(texts: Calibration | None) -> Measure | None:
    if texts is None:
        return None
    batches = [batch.feeds for batch in texts.batches]
    return lambda model, names: measure_ranges(model, names, batches)


def save(compiled: Compiled, weights: WeightsFile, path: Path) -> Path | None:
    """Writes the graph to `path` and the exact one, where there is one, into a folder beside it, which is returned."""
    save_graph(compiled.graph, weights, path)
    if compiled.exact is None:
        return None
    folder = path.with_suffix(".exact")
    folder.mkdir()
    with WeightsFile(folder / WEIGHTS) as own:
        save_graph(compiled.exact, own, folder / MODEL)
    return folder


def prove(plan: Plan, branches: Sequence[Branch], graph: Path, exact: Path | None) -> tuple[ParityRow, ...]:
    """Verifies the saved `graph`, and the one in the folder `exact` by the tolerance of fp32; removes that folder.

    Raises:
        VerificationError: a graph differs from PyTorch.
    """
    subjects = [Subject(graph, plan.atol)]
    if exact is not None:
        subjects.append(Subject(exact / MODEL, min(plan.atol, TOLERANCES["fp32"])))
    rows = verify(branches, plan, subjects, graph_outputs(plan))
    if exact is not None:
        shutil.rmtree(exact)
    return rows
