"""From an adapter model to one verified graph on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from rich.console import Console

from .drift import Drift
from .errors import ExportError
from .groups import compile_plan, prove, trace_group, write
from .load import check_finite, load
from .passes import PassReport, branch_size, graph_size
from .plan import Plan, make_plan
from .progress import Stages
from .prune import prune, shared_part, stored_bytes
from .prune_members import FusionReport, drifts, measure_fusions, open_calibration, with_members
from .report import GraphReport, Report, TaskReport
from .setups import describe
from .sharing import adapter_parameters
from .staging import check_destination, check_space, staged


def export(
    model: Any = None,
    tokenizer: Any = None,
    tasks: Sequence[str] | Mapping[str, Any] | None = None,
    drop: int | Mapping[str, int] = 0,
    output: str | Path = "onnx",
    keep_fused: int | None = None,
    calibration: str | Path | None = None,
    precision: str = "fp32",
    target: str = "portable",
    opset: int | None = None,
    atol: float | None = None,
    overwrite: bool = False,
    adapters: Sequence[str] = (),
    fusions: Sequence[str] = (),
    console: Console | None = None,
) -> Report:
    """Exports all tasks of an adapter model into one ONNX graph with a shared trunk, and verifies it against PyTorch.

    Args:
        model: a live model of the adapters library or of PEFT, a folder or hub id of one, or None for the bundled example. A
            live model is handed back as it came.
        tokenizer: a fast tokenizer to save beside the graph; a folder's own is found by itself.
        tasks: adapter names, each with a head of its own name, or a mapping from task name to a composition of the adapters
            library (Stack, Fuse, Average); None for the checkpoint's own setup, or all adapters where it has none.
        drop: adapters leave the layers 0 to drop - 1; a mapping gives a number per task, 0 where a task is not named.
        output: the folder to write; new or empty, or an earlier export with `overwrite`.
        keep_fused: keep this many members of each fusion, in each layer those with the most attention.
        calibration: a file with texts to measure that attention on (.txt, .jsonl, .csv, .tsv; labels are optional), or with
            scores (.json).
        precision: "fp32".
        target: "portable", standard ONNX operators only.
        opset: ONNX operator set, 20 by default.
        atol: allowed |onnx - torch| relative to max(1, max |torch|), 1e-4 by default.
        overwrite: replace the output folder where an export wrote it.
        adapters: [NAME=]SOURCE, folders or hub ids of adapters to load into the model.
        fusions: folders or hub ids of fusion layers to load into the model.
        console: where progress is shown; None for silence.

    Returns:
        The report. Logits of a task: [batch, labels], [batch, 1] for regression, [batch, sequence, labels] for tagging,
        [batch, sequence, vocabulary] for language modelling, [batch, 1] for multiple choice, where one row is one choice.

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
        checkpoint = load(model, tokenizer, adapters, fusions)
        plan = make_plan(checkpoint.model, checkpoint.tokenizer, tasks, drop, opset, atol, checkpoint.setup, checkpoint.head)
        texts = open_calibration(calibration, keep_fused, checkpoint.tokenizer, plan)
    with stages("prune"):
        branches = prune(checkpoint.model, plan)
        for branch in branches:
            check_finite(branch.model)
        # The file holds each weight once; asked before the long stages rather than after them.
        check_space(output, stored_bytes(branches))
    attention: dict[str, list[FusionReport]] = {}
    drift: tuple[Drift, ...] = ()
    if texts is not None:
        with stages("calibrate", f"on {len(texts.texts)} text(s)" if texts.texts else ""):
            attention = measure_fusions(branches, texts, keep_fused)
            plan = with_members(plan, attention)
            branches = prune(checkpoint.model, plan)
            drift = drifts(checkpoint.model, plan, branches, texts)
    with stages("trace", f"{len(branches)} structure(s) of {len(plan.tasks)} task(s)"):
        groups = [trace_group(branch, plan) for branch in branches]
    with stages("compile"):
        graph, passes = compile_plan(groups, plan)
    with staged(output, overwrite) as folder:
        with stages("save"):
            write(graph, plan, branches, checkpoint, folder)
        with stages("verify"):
            parity = prove(plan, branches, checkpoint, folder)
    parameters, stored = adapter_parameters(branches)
    return Report(
        output=output,
        source=checkpoint.source,
        tasks=_task_reports(plan),
        drop=plan.drop,
        layers=plan.layers,
        shared=shared_part(branches, plan),
        adapter_parameters=parameters,
        stored_adapter_parameters=stored,
        graph=_graph_report(graph, passes),
        fusions=tuple(report for reports in attention.values() for report in reports),
        drift=drift,
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


def _task_reports(plan: Plan) -> tuple[TaskReport, ...]:
    number = {task.name: index for index, group in enumerate(plan.groups) for task in group}
    return tuple(
        TaskReport(task.name, describe(task.setup), task.head.kind, task.head.labels, task.drop, number[task.name])
        for task in plan.tasks
    )


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
