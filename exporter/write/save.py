"""The files of a bundle: graphs, configuration, tokenizer and manifest."""

from __future__ import annotations

import copy
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from exporter.models.compositions import describe, fuses_of, members_of
from exporter.plan import Plan, Task, TaskPadding
from exporter.prune.task_groups import TaskGroup
from exporter.targets import probe_tolerances
from exporter.write.weights_file import WeightsFile
from runtime.bundle import (
    MODEL,
    WEIGHTS,
    Floats,
    Manifest,
    ParityRow,
    PassRow,
    Probe,
    ProbeEntry,
    SplitEntry,
    TaskEntry,
    TaskLayers,
    VariantEntry,
    digest,
    probe_file,
    routed_file,
)

_PACKAGES = ("adapterdrop-onnx", "torch", "transformers", "adapters", "peft", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
_TEXT_PACKAGE = "onnxruntime-extensions"  # whose operators a graph with a tokenizer needs


def save_graph(graph: ir.Model, weights: WeightsFile, path: Path) -> None:
    """Write the graph to `path` and its weights to the weights file of the bundle."""
    weights.externalize(graph)
    ir.save(graph, path)


def save_graphs(
    graphs: tuple[ir.Model, ir.Model | None],
    reference: tuple[ir.Model, ir.Model | None] | None,
    weights: WeightsFile,
    path: Path,
) -> Path | None:
    """Write the graph to `path`, the routed graph to the same folder, and the reference graphs to a temporary folder.

    Args:
        graphs: the graph of all tasks, and the routed graph if there is one.
        reference: the same in fp32 with standard operators; None if `graphs` are that already.
        weights: the weights file of the bundle.
        path: the file of the graph.

    Returns:
        The folder of the reference graphs, which `verify_saved` removes; None if there are none.
    """
    _save(*graphs, weights, path)
    if reference is None:
        return None
    folder = path.with_suffix(".reference")
    folder.mkdir()
    with WeightsFile(folder / WEIGHTS) as own:
        _save(*reference, own, folder / MODEL)
    return folder


def _save(graph: ir.Model, routed: ir.Model | None, weights: WeightsFile, path: Path) -> None:
    save_graph(graph, weights, path)
    if routed is not None:
        save_graph(routed, weights, path.with_name(routed_file(path.name)))


# The tokenizers library has no class for errors of files.
_SYSTEM_ERROR = re.compile(r"(.*) \(os error (\d+)\)$", re.DOTALL)


def variant_files(plans: Sequence[Plan]) -> list[str]:
    """Return the file names of the variants' graphs; the first one is model.onnx."""
    return [MODEL, *(f"model_drop{plan.drop}.onnx" for plan in plans[1:])]


# Head type -> problem_type, by which pipelines choose between softmax, sigmoid and the logits as they are.
_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


def save_config(model: Any, plan: Plan, processors: Sequence[Any], folder: Path) -> None:
    """Write config.json and the files of the tokenizer or image processor in the format of transformers.

    Args:
        model: the pruned model.
        plan: a single task's labels and problem type are written to config.json.
        processors: tokenizers and image processors.
        folder: the bundle.
    """
    config = copy.deepcopy(model.config)
    config._name_or_path = ""
    for name in ("prediction_heads", "adapters", "custom_heads"):
        # These describe modules that are part of the graph.
        if hasattr(config, name):
            delattr(config, name)
    only: Task | None = plan.tasks[0] if len(plan.tasks) == 1 else None
    if only is not None and (labels := only.head.labels or tuple(filter(None, (only.head.output_label,)))):
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if only is not None and only.head.kind in _PROBLEM_TYPES:
        config.problem_type = _PROBLEM_TYPES[only.head.kind]
    config.save_pretrained(folder)
    for processor in processors:
        _save_processor(processor, folder)


def _save_processor(processor: Any, folder: Path) -> None:
    """Write the files of a tokenizer or image processor. Raises OSError."""
    try:
        processor.save_pretrained(folder)
    except Exception as error:
        found = _SYSTEM_ERROR.match(str(error))
        if type(error) is not Exception or found is None:
            raise
        raise OSError(int(found[2]), found[1], str(folder)) from error


def save_probe(probe: Probe, plan: Plan, rounding: Mapping[str, Mapping[Floats, float]], path: Path) -> ProbeEntry:
    """Write the probe of a graph next to it.

    Args:
        probe: inputs and verified logits.
        plan: the plan of the graph.
        rounding: in int8, task -> type of floats -> how far rounding moves its logits; empty in other precisions.
        path: the file of the graph.

    Returns:
        The entry of the manifest.
    """
    name = probe_file(path.name)
    probe.write(path.with_name(name))
    tasks = {task: probe_tolerances(plan.precision, plan.atol, moved) for task, moved in rounding.items()}
    least = probe_tolerances(plan.precision, plan.atol)
    largest = {kind: max((own[kind] for own in tasks.values()), default=tolerance) for kind, tolerance in least.items()}
    return ProbeEntry(name, largest, tasks)


def variant_entry(
    task_groups: Sequence[TaskGroup],
    plan: Plan,
    model: str,
    parity: Sequence[ParityRow],
    passes: Sequence[PassRow],
    probe: ProbeEntry,
    routed: str = "",
    padding: Mapping[str, TaskPadding] = MappingProxyType({}),
) -> VariantEntry:
    """Return the manifest entry of one variant.

    Args:
        task_groups: the pruned models.
        plan: the plan of the variant.
        model: the file name of the graph.
        parity: the rows of the verification.
        passes: the rows of the compiler passes.
        probe: the entry of the probe.
        routed: the file name of the routed graph; empty without one.
        padding: task -> what it costs that its adapter is padded with zeros.
    """
    layers = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            cost = padding.get(task.name, TaskPadding(0, 0.0))
            members = _members(task_group, task, plan)
            without = task_group.layers_without_adapter(task)
            layers[task.name] = TaskLayers(task.drop, without, members, cost.bytes, cost.operations)
    return VariantEntry(plan.drop, model, routed, layers, tuple(parity), tuple(passes), probe)


def task_entry(task: Task, outputs: tuple[str, ...]) -> TaskEntry:
    """Return the manifest entry of a task.

    Args:
        task: the task.
        outputs: the names of its outputs in the graph.
    """
    head = task.head
    setup = describe(task.setup)
    return TaskEntry(task.name, head.kind, head.labels, outputs, setup, head.width, head.prompts, head.default_prompt)


def save_manifest(
    plan: Plan,
    tokenizer: bool,
    padding_counts: bool,
    variants: Sequence[VariantEntry],
    folder: Path,
    splits: Mapping[str, SplitEntry],
    text_graphs: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the manifest, adapterdrop.json, after all other files, because it contains their hashes.

    Args:
        plan: the tasks and inputs, equal for all variants.
        tokenizer: whether the folder contains a tokenizer.
        padding_counts: whether logits of a text depend on its padding.
        variants: the entries of the variants.
        folder: the bundle.
        splits: file of a variant's graph -> its split graphs.
        text_graphs: file of a variant's graph -> file of the graph with the tokenizer.
    """
    outputs = plan.outputs
    packages = (*_PACKAGES, _TEXT_PACKAGE) if text_graphs else _PACKAGES
    manifest = Manifest(
        inputs=plan.inputs,
        max_lengths=plan.max_lengths,
        layers=plan.layers,
        tasks=tuple(task_entry(task, outputs[task.name]) for task in plan.tasks),
        variants=tuple(variants),
        splits=splits,
        text_graphs=text_graphs,
        precision=plan.precision,
        target=plan.target,
        opset=plan.opset,
        tokenizer=tokenizer,
        padding_counts=padding_counts,
        versions={name: importlib.metadata.version(name) for name in packages if _installed(name)},
        files={path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()},
    )
    manifest.write(folder)


def _members(task_group: TaskGroup, task: Task, plan: Plan) -> tuple[tuple[str, ...], ...]:
    """The members that the task's first fusion keeps in each layer; empty for a task without a fusion."""
    fuse = next(fuses_of(task.setup), None)
    if fuse is None:
        return ()
    kept, members, without = task.kept.get(fuse.name, {}), members_of(fuse), task_group.layers_without_adapter(task)
    return tuple(() if layer in without else kept.get(layer, members) for layer in range(plan.layers))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
