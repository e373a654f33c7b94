"""New tasks for an exported folder: the plan of the tasks, and their weights in the stored templates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.checkpoints.load import Checkpoint
from exporter.compile.slots import label_axes
from exporter.compile.target_passes import ranges_of
from exporter.errors import ExportError
from exporter.models.compositions import names_of
from exporter.models.peft_folded import forms_of
from exporter.plan import Head, Plan, Task
from exporter.planning.make_plan import check_names, make_options, make_plan
from exporter.planning.padded_structure import fits, larger_structure
from exporter.planning.routable import check_routable
from exporter.planning.structure_difference import first_difference
from exporter.prune.task_groups import TaskGroup
from exporter.trace.trace import traceable
from exporter.trace.zero_padding import filled, generic_weights, is_head, may_be_missing, may_grow
from exporter.write.staging import check_destination
from exporter.write.stored_groups import StoredGroup
from runtime.bundle import Manifest, TaskEntry, VariantEntry, check_files, read_manifest
from runtime.errors import AdapterDropError

__all__ = ["Plans", "check_replaceable", "grown", "new_weights", "open_exported", "plan_new", "ranges", "stored_group_of"]


@dataclass(frozen=True)
class Plans:
    """The plan of the new tasks, and that of all."""

    new: Plan
    every: Plan


def open_exported(folder: Path) -> Manifest:
    """Read the manifest of a folder and check its files.

    Raises:
        ExportError: the folder is not a bundle, or one of its files is missing or altered.
    """
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except AdapterDropError as error:
        raise ExportError(str(error)) from error
    return manifest


def check_replaceable(folder: Path) -> None:
    """Check that a folder can be replaced.

    Raises:
        ExportError: it contains other files or links, or there is no permission.
    """
    check_destination(folder, overwrite=True)
    if links := sorted(path.name for path in folder.iterdir() if path.is_symlink()):
        raise ExportError(
            f"{folder} has links in place of files, first {links[0]}, as the cache of a hub has: copy the files of the bundle "
            "into a folder (cp -rL), and add to that"
        )
    if not os.access(folder.absolute().parent, os.W_OK | os.X_OK):
        raise ExportError(f"{folder} cannot be replaced: no permission to write in {folder.absolute().parent}")


def plan_new(
    checkpoint: Checkpoint,
    manifest: Manifest,
    variant: VariantEntry,
    atol: float | None,
    drop: int | None = None,
    wanted: Sequence[str] | Mapping[str, Any] | None = None,
) -> Plans:
    """Plan the tasks of a checkpoint that a bundle does not have.

    Args:
        checkpoint: the trunk with the new adapters.
        manifest: the manifest of the bundle.
        variant: the variant to which they are added.
        atol: allowed |onnx - torch| relative to max(1, max |torch|); None for the default of the bundle's precision.
        drop: drop of the new tasks in a bundle whose tasks have different ones; None for that of the variant.
        wanted: the new tasks, as `tasks` of `export`; None for all tasks of the checkpoint that the bundle does not have.

    Raises:
        ExportError: there is no new task, the bundle has one of those that are wanted, or one cannot be routed in a bundle that
            routes.
    """
    options = make_options(manifest.opset, atol, manifest.precision, manifest.target, ranges(variant))
    found = make_plan(checkpoint, wanted, variant.drop if drop is None else drop, options)
    known = {entry.name for entry in manifest.tasks}
    if wanted is not None and (again := [task.name for task in found.tasks if task.name in known]):
        raise ExportError(f"the bundle already has {', '.join(again)}: name only new tasks")
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
        check_routable(new, "export these to another folder: this one has a routed graph")
    return Plans(new, every)


def ranges(variant: VariantEntry) -> str | None:
    """Return how the activations of a variant got their ranges in int8; None otherwise."""
    return ranges_of(row.name for row in variant.passes)


def _known(entry: TaskEntry, variant: VariantEntry) -> Task:
    """A task of the bundle, as far as the manifest knows it."""
    head = Head(None, entry.head, entry.labels, 1, None, entry.width, entry.prompts, entry.default_prompt)
    return Task(entry.name, entry.name, head, variant.tasks[entry.name].drop, {}, entry.name, names_of(entry.name))


def grown(templates: Sequence[StoredGroup], task_groups: Sequence[TaskGroup], plan: Plan) -> list[StoredGroup]:
    """Return the templates with the weights of the new tasks, in the plan's order.

    Raises:
        ExportError: a task has another structure than all templates.
    """
    wider = list(templates)
    by_task = {task.name: task_group for task_group in map(traceable, task_groups) for task in task_group.tasks}
    for task in plan.tasks:
        number = stored_group_of(wider, task)
        wider[number] = _with_task(wider[number], by_task[task.name], task)
    return wider


def stored_group_of(stored: Sequence[StoredGroup], task: Task) -> int:
    """Return the number of the stored group with the structure of a task.

    Raises:
        ExportError: there is no such group, or several; the message names the first difference from the closest one.
    """
    fitting = [number for number, each in enumerate(stored) if each.structure == task.structure]
    # Otherwise the first one into which it fits with zeros; several of one structure have shared adapters.
    fitting = fitting or [number for number, each in enumerate(stored) if fits(task.structure, each.structure)][:1]
    if len(fitting) != 1:
        found = "several groups of tasks have" if fitting else "no task of the bundle has"
        raise ExportError(
            f"{found} the structure of the task {task.name!r}: {_reason(task.structure, stored)}; export the bundle again "
            "with all tasks"
        )
    return fitting[0]


def _reason(structure: str, stored: Sequence[StoredGroup]) -> str:
    structures = {each.group.tasks[0]: each.structure for each in stored}
    for name, own in structures.items():
        larger = larger_structure([structure, own])
        if larger not in (None, own):  # smaller sizes, which zeros would fill up, are no reason
            return first_difference(str(larger), {name: own})
    return first_difference(structure, structures)


def _with_task(template: StoredGroup, task_group: TaskGroup, task: Task) -> StoredGroup:
    weights = {name: [*template.group.weights[name], array] for name, array in new_weights(template, task_group, task).items()}
    forms = forms_of(task_group.model)
    group = replace(template.group, tasks=(*template.group.tasks, task.name), weights=weights, forms=forms)
    return replace(template, group=group)


def new_weights(template: StoredGroup, task_group: TaskGroup, task: Task) -> dict[str, np.ndarray]:
    """Return name in the template -> the weight of a task.

    Args:
        template: the stored group with the structure of the task.
        task_group: the pruned and patched model of the task.
        task: the task.

    Raises:
        ExportError: the task lacks a weight, or one has another type or does not fit.
    """
    own = generic_weights(task_group, task)
    labels = label_axes(template.group)
    weights = {}
    for name, arrays in template.group.weights.items():
        like, generic = arrays[0], template.generic_names[name]
        array = own.get(generic)
        wrong = array is None or array.dtype != like.dtype or array.ndim != like.ndim
        if array is None and may_be_missing(generic):
            weights[name] = filled(None, like.shape, like)
        elif array is None or wrong or not (may_grow(generic, array, like) or is_head(generic) or name in labels):
            found = "no weight" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ExportError(
                f"the task {task.name!r} must have a weight {like.dtype}{list(like.shape)} where the bundle has {name}, "
                f"found {found}: export the bundle again with this task"
            )
        else:
            weights[name] = array if is_head(generic) or name in labels else filled(array, like.shape, like)
    return weights
