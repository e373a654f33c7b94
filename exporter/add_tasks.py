"""Adds tasks to an exported folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.checkpoints.load import check_finite, load
from exporter.compile.build import compile_plan, copies
from exporter.errors import ExportError, VerificationError
from exporter.models.neutral_state import neutral_state
from exporter.notes import decided_in_fp64, missing_effects
from exporter.plan import Plan, TaskPadding
from exporter.prune.sizes import reference_bytes
from exporter.prune.task_groups import TaskGroup, prune
from exporter.report import Report, VariantReport
from exporter.slots import save_slots
from exporter.split import split_variants
from exporter.stages import Stages
from exporter.stored_tasks import Plans, check_replaceable, grown, open_exported, plan_new, ranges, stored_group_of
from exporter.targets import needs_ranges
from exporter.text_graph import check_text_names, extensions_library, save_text_graphs, stored_text_graph
from exporter.trace.padding_costs import padding_of
from exporter.variant import report_variant, weight_costs, with_costs
from exporter.verify.candidate import Candidate
from exporter.verify.library_reference import compare_with_library
from exporter.verify.parity import NOTHING_WRITTEN, explain_another_trunk, parity_row
from exporter.verify.probe import make_probe
from exporter.verify.random_inputs import make_inputs
from exporter.verify.rounding import measure_rounding
from exporter.verify.saved import load_graph, verify_saved
from exporter.verify.shapes import shapes_of
from exporter.write.save import save_config, save_graphs, save_probe, task_entry, variant_entry
from exporter.write.staging import check_space, staged
from exporter.write.stored_groups import StoredGroup, load_stored_groups, save_stored_groups, stored_group_files
from exporter.write.weights_file import WeightsFile
from runtime.bundle import MANIFEST, WEIGHTS, Manifest, SplitEntry, VariantEntry, digest, slots_file
from runtime.slots.layout import SlotLayout, layout_file
from runtime.text.encode import TextEncoder


@neutral_state()
def add(
    folder: str | Path,
    adapters: Sequence[str] = (),
    model: Any = None,
    fusions: Sequence[str] = (),
    atol: float | None = None,
    pooling: Mapping[str, str] | None = None,
    heads: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | Mapping[str, Any] | None = None,
) -> Report:
    """Add tasks to a bundle without tracing their model.

    The bundle must have been exported with `extendable`, and each new task must have the structure of a task in it. New tasks
    have the drop of each variant. They are verified against PyTorch, the others against the graph that is replaced. Progress
    is logged at level INFO by the logger "exporter.stages"; nothing is printed.

    Args:
        folder: a folder written by `export`. It is replaced as a whole, or not at all.
        adapters: [NAME=]SOURCE, folders or hub ids of adapters to load into the model.
        model: the base model that the bundle was exported from: a live model, a folder or hub id, or None for the bundled
            example. Tasks of it that the bundle already has are ignored.
        fusions: folders or hub ids of fusion layers to load into the model.
        atol: allowed |onnx - torch| relative to max(1, max |torch|); the default is that of the bundle's precision.
        pooling: as in `export`.
        heads: as in `export`; the bundle must have a linear head of the same pooling.
        tasks: the tasks to add, as in `export`; None for all that the bundle does not have.

    Returns:
        The report of the new tasks.

    Raises:
        ExportError: no such bundle, no new task, or one of another structure.
        VerificationError: a graph differs. In either case the folder is unchanged.
    """
    folder = Path(folder).expanduser()
    stages = Stages()
    with stages("load"):
        manifest = open_exported(folder)
        continued = (folder / MANIFEST).read_bytes()
        check_replaceable(folder)
        if needs_ranges(manifest.target, manifest.precision, ranges(manifest.variants[0])):
            raise ExportError(
                f"{manifest.precision} for the target {manifest.target} needs calibration texts of all tasks: export the "
                "bundle again with all tasks"
            )
        if manifest.text_graphs:
            extensions_library()
        templates = [load_stored_groups(folder / variant.model, list(manifest.files)) for variant in manifest.variants]
        checkpoint = load(model, False, adapters, fusions, pooling, heads)  # the bundle's own tokenizer is kept
        plans = [plan_new(checkpoint, manifest, variant, atol, wanted=tasks) for variant in manifest.variants]
    with stages("prune"):
        pruned = [prune(checkpoint.model, plan.new) for plan in plans]
        for task_group in (task_group for task_groups in pruned for task_group in task_groups):
            check_finite(task_group.model)
        if manifest.text_graphs:
            check_text_names(plans[0].every)
        compare_with_library(checkpoint, plans[0].new)
        wider = [grown(*each) for each in zip(templates, pruned, (plan.new for plan in plans), strict=True)]
        # The old weights are in the new file again; the templates among them are what an exact copy takes.
        check_space(folder, (folder / WEIGHTS).stat().st_size + reference_bytes(pruned, plans[0].new))
    done = []
    with staged(folder, overwrite=True, continued=continued) as target:
        with WeightsFile(target / WEIGHTS) as weights:
            for variant, plan, task_groups, stored in zip(manifest.variants, plans, pruned, wider, strict=True):
                done.append(_variant(folder, manifest, target, variant, plan, task_groups, stored, weights, stages))
        splits: dict[str, SplitEntry] = {}
        if manifest.splits:
            with stages("split"):
                named = {entry.model: plan.every for (entry, _), plan in zip(done, plans, strict=True)}
                routed = any(variant.routed for variant in manifest.variants)
                left = manifest.tokenizer and TextEncoder.load(folder, manifest).pad_left
                splits = split_variants(target, named, routed, left, manifest.splits)
        texts_to: dict[str, str] = {}
        if manifest.text_graphs:
            with stages("tokenizer"):
                text_graph = stored_text_graph(folder / next(iter(manifest.text_graphs.values())))
                texts_to = save_text_graphs(text_graph, target, list(manifest.text_graphs), plans[0].every)
        for name in manifest.files:
            if not (target / name).exists():
                shutil.copyfile(folder / name, target / name)
        save_config(pruned[0][0].model, plans[0].every, (), target)
        _save_manifest(manifest, plans[0].every, [entry for entry, _ in done], target, splits)
    variants_done = tuple(
        replace(report, split=splits.get(report.model), text_graph=texts_to.get(report.model, "")) for _, report in done
    )
    return Report(folder, checkpoint.source, manifest.layers, variants_done, stages.seconds)


def _variant(
    folder: Path,
    manifest: Manifest,
    target: Path,
    variant: VariantEntry,
    plans: Plans,
    task_groups: tuple[TaskGroup, ...],
    templates: Sequence[StoredGroup],
    weights: WeightsFile,
    stages: Stages,
) -> tuple[VariantEntry, VariantReport]:
    path = target / variant.model
    with stages("compile"):
        groups = copies([template.group for template in templates])
        compiled = compile_plan(groups, plans.every, routed=() if variant.routed else None, clean=True)
    with stages("save"):
        reference = save_graphs((compiled.graph, compiled.routed), compiled.reference, weights, path)
        save_stored_groups(templates, weights, path)
    exact: dict[str, float] = {}
    if slots_file(variant.model) in manifest.files:
        with stages("slots"), explain_another_trunk():
            layout = layout_file(slots_file(variant.model))
            slots = SlotLayout.from_bytes((folder / layout).read_bytes(), folder / layout).slots
            stored = load_stored_groups(path, stored_group_files(path.name, len(templates)))
            exact |= save_slots(stored, task_groups, plans.every, slots, weights, path)
    with stages("verify"):
        graph = load_graph(plans.every, path, bool(variant.routed))
        with explain_another_trunk():
            compared = verify_saved(plans.every, task_groups, graph, reference)
        parity, exact = compared.rows, {**exact, **compared.exact}
        _compare_old(load_graph(plans.every, folder / variant.model, routed=False), graph, plans)
        rows = (*variant.parity, *parity)
        verified = make_probe(plans.every, graph.graph, task_groups)
        probe = save_probe(verified, plans.every, measure_rounding(plans.every, verified, path), path)
        notes = (*missing_effects(plans.new, task_groups), *decided_in_fp64(exact))
    padding: dict[str, TaskPadding] = {}
    for task_group in task_groups:
        stored_group = templates[stored_group_of(templates, task_group.tasks[0])]
        shapes = {generic: stored_group.group.weights[name][0].shape for name, generic in stored_group.generic_names.items()}
        padding |= {name: zeros.cost for name, zeros in padding_of(task_group, shapes).items()}
    new = variant_entry(task_groups, plans.new, variant.model, parity, compiled.passes, probe, variant.routed, padding)
    entry = replace(new, tasks={**variant.tasks, **new.tasks}, parity=rows)
    group_of = {name: number for number, template in enumerate(templates) for name in template.group.tasks}
    report = report_variant(plans.new, task_groups, compiled, entry, parity, group_of)
    tasks = with_costs(report.tasks, weight_costs([template.group for template in templates]), padding)
    return entry, replace(report, tasks=tasks, notes=notes)


def _compare_old(before: Candidate, after: Candidate, plans: Plans) -> None:
    """Raise VerificationError where the logits of the bundle's previous tasks change."""
    old = [task for task in plans.every.tasks if task not in plans.new.tasks]
    outputs = [replace(plans.every, tasks=tuple(old)).outputs, plans.every.outputs]
    failed = []
    for shape in shapes_of(plans.every):
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
