"""From an adapter model to one verified graph on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from rich.console import Console

from runtime.bundle import MODEL

from .binding import task_weights
from .errors import ExportError
from .load import check_finite, load
from .passes import Group, PassReport, branch_size, compile_groups, graph_size
from .plan import Plan, Task, make_plan
from .progress import Stages
from .prune import prune, shared_part
from .report import GraphReport, Report, TaskReport
from .save import finish, output_names, save_config, save_graph, save_manifest
from .staging import check_destination, check_space, staged
from .trace import BATCH, trace
from .verify import verify


def export(
    model: Any = None,
    tokenizer: Any = None,
    tasks: Sequence[str] | None = None,
    drop: int = 0,
    output: str | Path = "onnx",
    precision: str = "fp32",
    target: str = "portable",
    opset: int | None = None,
    atol: float | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Exports all tasks of an adapter model into one ONNX graph with a shared trunk, and verifies it against PyTorch.

    Args:
        model: a live model of the adapters library with one head per adapter, a folder from `save_pretrained`, or None for the
            bundled example. A live model is handed back as it came.
        tokenizer: a fast tokenizer to save beside the graph; a folder's own is found by itself.
        tasks: adapter names, each with a head of its own name; None for all adapters.
        drop: adapters leave the layers 0 to drop - 1.
        output: the folder to write; new or empty, or an earlier export with `overwrite`.
        precision: "fp32".
        target: "portable", standard ONNX operators only.
        opset: ONNX operator set, 20 by default.
        atol: allowed |onnx - torch| relative to max(1, max |torch|), 1e-4 by default.
        overwrite: replace the output folder where an export wrote it.
        console: where progress is shown; None for silence.

    Returns:
        The report. Logits of a task: [batch, labels], [batch, 1] for regression, [batch, sequence, labels] for tagging.

    Raises:
        ExportError: wrong use, an unsupported model or bad input.
        VerificationError: the graph differs from PyTorch. In either case nothing was written.
    """
    output = _path(output)
    _check_choice("precision", precision, "fp32")
    _check_choice("target", target, "portable")
    check_destination(output, overwrite)
    stages = Stages(console)
    with stages("load"):
        checkpoint = load(model, tokenizer)
        plan = make_plan(checkpoint.model, checkpoint.tokenizer, tasks, drop, opset, atol)
    with stages("prune"):
        pruned = prune(checkpoint.model, plan)
        check_finite(pruned)
        # The file holds each weight once; asked before the long stages rather than after them.
        check_space(output, sum(parameter.nbytes for parameter in pruned.parameters()))
    with stages("trace", f"{len(plan.groups)} structure(s) of {len(plan.tasks)} task(s)"):
        groups = [_trace_group(pruned, plan, tasks) for tasks in plan.groups]
    with stages("compile"):
        graph, passes = _compile(groups)
        finish(graph, plan)
    with staged(output, overwrite) as folder:
        with stages("save"):
            save_graph(graph, folder)
            save_config(pruned, plan, checkpoint.tokenizer, folder)
        with stages("verify"):
            parity = verify(pruned, plan, folder / MODEL, output_names(plan))
            save_manifest(pruned, plan, checkpoint.tokenizer, parity, folder)
    return Report(
        output=output,
        source=checkpoint.source,
        tasks=_task_reports(plan),
        drop=plan.drop,
        layers=plan.layers,
        shared=shared_part(pruned, plan),
        graph=_graph_report(graph, passes),
        parity=parity,
        seconds=stages.seconds,
    )


def _path(output: object) -> Path:
    if not isinstance(output, str | os.PathLike) or "\0" in str(output) or not str(output):
        raise ExportError(f"the output must be the path of a folder, found {output!r}")
    return Path(output).expanduser()


def _check_choice(name: str, value: str, only: str) -> None:
    if value != only:
        raise ExportError(f"{name} must be {only!r}, the only one there is so far; found {value!r}")


def _trace_group(pruned: Any, plan: Plan, tasks: Sequence[Task]) -> Group:
    names = tuple(task.name for task in tasks)
    weights = task_weights(pruned, names[0], names)
    graph = trace(pruned, plan, tasks[0])
    return Group(names, graph, {name: [tensor.numpy() for tensor in tensors] for name, tensors in weights.items()})


def _compile(groups: Sequence[Group]) -> tuple[ir.Model, list[PassReport]]:
    try:
        return compile_groups(groups, BATCH)
    except Exception as error:  # ours, onnx-ir's, onnxscript's and the reference implementation's
        raise ExportError(f"the graph compiler cannot work on this model: {error or type(error).__name__}") from error


def _task_reports(plan: Plan) -> tuple[TaskReport, ...]:
    number = {task.name: index for index, group in enumerate(plan.groups) for task in group}
    return tuple(TaskReport(task.name, task.head, task.labels, number[task.name]) for task in plan.tasks)


def _graph_report(graph: ir.Model, passes: Sequence[PassReport]) -> GraphReport:
    nodes, size = graph_size(graph)
    branch_nodes, branch_bytes = branch_size(graph)
    return GraphReport(
        nodes=nodes,
        trunk_nodes=nodes - branch_nodes,
        branch_nodes=branch_nodes,
        initializer_bytes=size,
        trunk_bytes=size - branch_bytes,
        branch_bytes=branch_bytes,
        passes=tuple(passes),
    )
