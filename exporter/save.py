"""Writes a compiled graph and what belongs to it into a folder."""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common

from runtime.bundle import MODEL, WEIGHTS, Manifest, ParityRow, TaskEntry, digest

from .plan import Plan, Task
from .prune import layers_without_adapter

_PACKAGES = ("adapterdrop-onnx", "torch", "transformers", "adapters", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def output_names(plan: Plan) -> dict[str, str]:
    """Task -> graph output. A single task's is called "logits", as in transformers, so that Optimum loads the folder."""
    if len(plan.tasks) == 1:
        return {plan.tasks[0].name: "logits"}
    return {task.name: task.name for task in plan.tasks}


def finish(graph: ir.Model, plan: Plan) -> None:
    """Gives outputs their names and order, and removes what is true of the trace alone."""
    names = output_names(plan)
    by_name = {value.name: value for value in graph.graph.outputs}
    ordered = [by_name[task.name] for task in plan.tasks]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(ordered)
    for task, value in zip(plan.tasks, ordered, strict=True):
        value.name = names[task.name]
    # torch notes stack traces with the paths of this machine.
    common.ClearMetadataAndDocStringPass()(graph)
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                # ONNX Runtime reuses buffers by the shapes noted here and infers them better than they can be kept true.
                value.shape = None
    graph.graph.name = "adapterdrop"
    graph.producer_name, graph.producer_version = "adapterdrop-onnx", None
    common.NameFixPass()(graph)


def save_graph(graph: ir.Model, folder: Path) -> None:
    ir.save(graph, folder / MODEL, external_data=WEIGHTS)


def save_config(model: Any, plan: Plan, tokenizer: Any, folder: Path) -> None:
    """config.json and the tokenizer's files, as transformers writes them."""
    config = copy.deepcopy(model.config)
    config._name_or_path = ""
    for name in ("prediction_heads", "adapters", "custom_heads"):
        # These describe modules that are part of the graph now.
        if hasattr(config, name):
            delattr(config, name)
    only: Task | None = plan.tasks[0] if len(plan.tasks) == 1 else None
    labels = only.labels if only is not None and only.labels else ("LABEL_0",) if only is not None else ()
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def save_manifest(model: Any, plan: Plan, tokenizer: Any, parity: tuple[ParityRow, ...], folder: Path) -> None:
    """adapterdrop.json: written last, because it names every other file with its hash."""
    names = output_names(plan)
    manifest = Manifest(
        inputs=plan.inputs,
        max_length=plan.max_length,
        vocab_size=int(model.config.vocab_size),
        segments=int(model.config.type_vocab_size) if "token_type_ids" in plan.inputs else 0,
        layers=plan.layers,
        tasks=tuple(
            TaskEntry(task.name, task.head, task.labels, names[task.name], layers_without_adapter(model, plan, task.name))
            for task in plan.tasks
        ),
        drop=plan.drop,
        opset=plan.opset,
        tokenizer=tokenizer is not None,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
        files={path.name: digest(path) for path in sorted(folder.iterdir())},
        parity=parity,
    )
    manifest.write(folder)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
