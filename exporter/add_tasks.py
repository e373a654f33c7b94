"""Adds tasks to an exported folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.checkpoints.load import Checkpoint, check_finite, load
from exporter.compile.build import compile_plan, copies
from exporter.compile.target_passes import ranges_of
from exporter.errors import ExportError, VerificationError
from exporter.models.binding import task_slots, task_weights
from exporter.models.compositions import names_of
from exporter.models.neutral_state import neutral_state
from exporter.notes import missing_effects
from exporter.plan import Head, Plan, Task
from exporter.planning.make_plan import check_names, make_options, make_plan
from exporter.planning.routable import check_routable
from exporter.planning.structure_difference import first_difference
from exporter.prune.sizes import reference_bytes
from exporter.prune.task_groups import TaskGroup, prune
from exporter.report import Report, VariantReport
from exporter.split import split_variants
from exporter.stages import Stages
from exporter.targets import needs_ranges
from exporter.trace.trace import traceable
from exporter.variant import report_variant
from exporter.verify.library_reference import compare_with_library
from exporter.verify.parity import NOTHING_WRITTEN, parity_row
from exporter.verify.probe import make_probe
from exporter.verify.random_inputs import make_inputs
from exporter.verify.saved import load_graph, verify_saved
from exporter.verify.verify import SHAPES, Candidate
from exporter.write.save import save_config, save_graphs, save_probe, task_entry, variant_entry
from exporter.write.staging import check_destination, check_space, staged
from exporter.write.stored_groups import StoredGroup, load_stored_groups, save_stored_groups
from exporter.write.weights_file import WeightsFile
from runtime.bundle import MANIFEST, WEIGHTS, Manifest, SplitEntry, TaskEntry, VariantEntry, check_files, digest, read_manifest
from runtime.errors import AdapterDropError


@neutral_state()
def add(
    folder: str | Path,
    adapters: Sequence[str] = (),
    model: Any = None,
    fusions: Sequence[str] = (),
    atol: float | None = None,
    pooling: Mapping[str, str] | None = None,
) -> Report:
    """Add tasks to a bundle without tracing their model.

    The bundle must have been exported with `extendable`, and each new task must have the structure of a task in it. New tasks
    have the drop of each variant. They are verified against PyTorch, the others against the graph that is replaced. Progress
    is logged at level INFO by the logger "exporter.stages"; nothing is printed.

    Args:
        folder: a folder written by `export`. It is replaced as a whole, or not at all.
        adapters: [NAME=]SOURCE, folders or hub ids of adapters to load into the model.
        model: the trunk that the bundle was exported from: a live model, a folder or hub id, or None for the bundled example.
            Tasks of it that the bundle already has are ignored.
        fusions: folders or hub ids of fusion layers to load into the model.
        atol: allowed |onnx - torch| relative to max(1, max |torch|); the default is that of the bundle's precision.
        pooling: as of `export`.

    Returns:
        The report of the new tasks.

    Raises:
        ExportError: no such bundle, no new task, or one of another structure.
        VerificationError: a graph differs.

        In either case the folder is unchanged.
    """
    folder = Path(folder).expanduser()
    stages = Stages()
    with stages("load"):
        manifest = _open(folder)
        if needs_ranges(manifest.target, manifest.precision, _ranges(manifest.variants[0])):
            raise ExportError(
                f"{manifest.precision} for the target {manifest.target} needs calibration texts of all tasks: export the "
                "bundle again with the new ones"
            )
        templates = [load_stored_groups(folder / variant.model, list(manifest.files)) for variant in manifest.variants]
        checkpoint = load(model, False, adapters, fusions, pooling)  # the bundle's own tokenizer is kept
        plans = [_plan(checkpoint, manifest, variant, atol) for variant in manifest.variants]
    with stages("prune"):
        pruned = [prune(checkpoint.model, plan.new) for plan in plans]
        for task_group in (task_group for task_groups in pruned for task_group in task_groups):
            check_finite(task_group.model)
        compare_with_library(checkpoint, plans[0].new)
        grown = [_grown(*each) for each in zip(templates, pruned, (plan.new for plan in plans), strict=True)]
        # The old weights are in the new file again; the templates among them are what an exact copy takes.
        check_space(folder, (folder / WEIGHTS).stat().st_size + reference_bytes(pruned, plans[0].new))
    done = []
    with staged(folder, overwrite=True) as target:
        with WeightsFile(target / WEIGHTS) as weights:
            for variant, plan, task_groups, wider in zip(manifest.variants, plans, pruned, grown, strict=True):
                done.append(_variant(folder, target, variant, plan, task_groups, wider, weights, stages))
        splits: dict[str, SplitEntry] = {}
        if manifest.splits:
            with stages("split"):
                named = {entry.model: plan.every for (entry, _), plan in zip(done, plans, strict=True)}
                routed = any(variant.routed for variant in manifest.variants)
                splits = split_variants(target, named, routed, manifest.splits)
        for name in manifest.files:
            if not (target / name).exists():
                shutil.copyfile(folder / name, target / name)
        save_config(pruned[0][0].model, plans[0].every, (), target)
        _save_manifest(manifest, plans[0].every, [entry for entry, _ in done], target, splits)
    variants_done = tuple(replace(report, split=splits.get(report.model)) for _, report in done)
    return Report(folder, checkpoint.source, manifest.layers, variants_done, stages.seconds)


@dataclass(frozen=True)
class _Plans:
    """The plan of the new tasks, and that of all."""

    new: Plan
    every: Plan


def _open(folder: Path) -> Manifest:
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except AdapterDropError as error:
        raise ExportError(str(error)) from error
    check_destination(folder, overwrite=True)
    if not os.access(folder.absolute().parent, os.W_OK | os.X_OK):
        raise ExportError(f"{folder} cannot be replaced: no permission to write in {folder.absolute().parent}")
    return manifest


def _plan(checkpoint: Checkpoint, manifest: Manifest, variant: VariantEntry, atol: float | None) -> _Plans:
    options = make_options(manifest.opset, atol, manifest.precision, manifest.target, _ranges(variant))
    found = make_plan(checkpoint, None, variant.drop, options)
    known = {entry.name for entry in manifest.tasks}
    tasks = tuple(task for task in found.tasks if task.name not in known)
    if not tasks:
        raise ExportError(
            f"the model and adapters given have no new task; the bundle has {', '.join(sorted(known))}: name "
            "a new one with --adapter NAME=SOURCE"
        )
    # The model may have been exported with a tokenizer that knows no token types.
    new = replace(found, tasks=tasks, inputs=manifest.inputs, max_lengths=manifest.max_lengths)
    old = tuple(_known(entry, variant) for entry in manifest.tasks)
    every = replace(new, tasks=(*old, *tasks))
    check_names(every.tasks, every.inputs)
    if variant.routed:
        check_routable(every)
    return _Plans(new, every)


def _ranges(variant: VariantEntry) -> str | None:
    return ranges_of(row.name for row in variant.passes)


def _known(entry: TaskEntry, variant: VariantEntry) -> Task:
    """A task of the bundle, as far as the manifest knows it."""
    head = Head(None, entry.head, entry.labels, 1, None, entry.width, entry.prompts, entry.default_prompt)
    return Task(entry.name, entry.name, head, variant.tasks[entry.name].drop, {}, entry.name, names_of(entry.name))


def _grown(templates: Sequence[StoredGroup], task_groups: Sequence[TaskGroup], plan: Plan) -> list[StoredGroup]:
    """The templates with the weights of the new tasks, in the plan's order."""
    grown = list(templates)
    by_task = {task.name: task_group for task_group in map(traceable, task_groups) for task in task_group.tasks}
    for task in plan.tasks:
        fitting = [number for number, each in enumerate(grown) if each.structure == task.structure]
        if len(fitting) != 1:
            found = "several groups of tasks have" if fitting else "no task of the bundle has"
            difference = first_difference(task.structure, {each.group.tasks[0]: each.structure for each in grown})
            raise ExportError(
                f"{found} the structure of the task {task.name!r}: {difference}; export the bundle again with all tasks"
            )
        grown[fitting[0]] = _with_task(grown[fitting[0]], by_task[task.name], task)
    return grown


def _with_task(template: StoredGroup, task_group: TaskGroup, task: Task) -> StoredGroup:
    own = task_weights(task_group.model, [task])
    by_place = {place: own[name][0].numpy() for name, place in task_slots(task_group.model, task).items()}
    weights = {}
    for name, arrays in template.group.weights.items():
        array = by_place.get(template.slots[name])
        if array is None or array.dtype != arrays[0].dtype or array.ndim != arrays[0].ndim:
            found = "no weight" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ExportError(
                f"the task {task.name!r} was expected to have {arrays[0].dtype}{list(arrays[0].shape)} in the place of {name}, "
                f"found {found}: export the bundle again with it"
            )
        weights[name] = [*arrays, array]
    group = replace(template.group, tasks=(*template.group.tasks, task.name), weights=weights)
    return replace(template, group=group)


def _variant(
    folder: Path,
    target: Path,
    variant: VariantEntry,
    plans: _Plans,
    task_groups: tuple[TaskGroup, ...],
    templates: Sequence[StoredGroup],
    weights: WeightsFile,
    stages: Stages,
) -> tuple[VariantEntry, VariantReport]:
    path = target / variant.model
    with stages("compile"):
        groups = copies([template.group for template in templates])
        compiled = compile_plan(groups, plans.every, routed=bool(variant.routed), clean=True)
    with stages("save"):
        reference = save_graphs((compiled.graph, compiled.routed), compiled.reference, weights, path)
        save_stored_groups(templates, weights, path)
    with stages("verify"):
        graph = load_graph(plans.every, path, bool(variant.routed))
        parity = verify_saved(plans.every, task_groups, graph, reference)
        _compare_old(load_graph(plans.every, folder / variant.model, routed=False), graph, plans)
        rows = (*variant.parity, *parity)
        probe = save_probe(make_probe(plans.every, graph.graph, task_groups), plans.every, rows, path)
        notes = missing_effects(plans.new, task_groups)
    new = variant_entry(task_groups, plans.new, variant.model, parity, compiled.passes, probe, variant.routed)
    entry = replace(new, tasks={**variant.tasks, **new.tasks}, parity=rows)
    report = report_variant(plans.new, task_groups, compiled, entry, parity)
    group = {name: number for number, template in enumerate(templates) for name in template.group.tasks}
    numbered = [replace(task, group=group[task.name]) for task in report.tasks]
    sized = tuple(replace(task, bytes=templates[task.group].group.bytes_of(task.name)) for task in numbered)
    return entry, replace(report, tasks=sized, notes=notes)


def _compare_old(before: Candidate, after: Candidate, plans: _Plans) -> None:
    """Raise VerificationError where the logits of the bundle's previous tasks change."""
    old = [task for task in plans.every.tasks if task not in plans.new.tasks]
    outputs = [replace(plans.every, tasks=tuple(old)).outputs, plans.every.outputs]
    failed = []
    for shape in SHAPES:
        if shape[1] > min(plans.every.max_lengths.values(), default=shape[1]):
            continue
        given = make_inputs(plans.every, *shape)
        for task in old:
            expected, found = (
                each.graph.run(list(names[task.name]), given) for each, names in zip((before, after), outputs, strict=True)
            )
            for one, other in zip(expected, found, strict=True):
                row = parity_row(task, np.asarray(one), np.asarray(other), shape, plans.every.atol)
                if not row.max_abs_diff <= row.tolerance:
                    failed.append(
                        f"  {task.name} at {shape[0]}x{shape[1]}: {row.max_abs_diff:.2e} from the logits of the bundle"
                    )
    if failed:
        raise VerificationError(NOTHING_WRITTEN + "\n".join(failed))


def _save_manifest(
    manifest: Manifest, plan: Plan, variants: Sequence[VariantEntry], target: Path, splits: Mapping[str, SplitEntry]
) -> None:
    outputs: Mapping[str, tuple[str, ...]] = plan.outputs
    known = {entry.name: entry for entry in manifest.tasks}
    entries = tuple(
        replace(known[task.name], outputs=outputs[task.name]) if task.name in known else task_entry(task, outputs[task.name])
        for task in plan.tasks
    )
    files = {path.name: digest(path) for path in sorted(target.iterdir()) if path.name != MANIFEST}
    replace(manifest, tasks=entries, variants=tuple(variants), splits=splits, files=files).write(target)
