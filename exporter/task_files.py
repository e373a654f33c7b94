"""Makes the file of one task, which services with a bundle add while they run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.checkpoints.load import check_finite, load
from exporter.compile.build import copies
from exporter.compile.slots import SlotGraph, compile_slots
from exporter.errors import ExportError
from exporter.local_bundle import local_bundle
from exporter.models.neutral_state import neutral_state
from exporter.notes import decided_in_fp64
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup, prune
from exporter.slots import open_slots
from exporter.stages import Stages
from exporter.stored_tasks import new_weights, open_exported, plan_new, stored_group_of
from exporter.trace.trace import traceable
from exporter.traced_group import TracedGroup
from exporter.verify.library_reference import compare_with_library
from exporter.verify.parity import explain_another_trunk
from exporter.verify.routes import width
from exporter.verify.slots import verify_slots
from exporter.write.save import task_entry
from exporter.write.stored_groups import StoredGroup, load_stored_groups
from exporter.write.task_file import task_file_bytes
from runtime.bundle import Manifest, ParityRow, VariantEntry, slots_file
from runtime.bundle.whole_file import unreplaceable, write_whole
from runtime.slots.layout import SlotLayout, layout_file
from runtime.slots.task_file import is_task_file


@dataclass(frozen=True)
class TaskReport:
    """The result of `task`.

    Attributes:
        output: the file.
        task: the name of the task.
        bytes: size of the file.
        parity: comparisons with single-task eager PyTorch, for each drop of the bundle.
        notes: what is worth knowing about the comparisons.
        seconds: stage -> duration.
    """

    output: Path
    task: str
    bytes: int
    parity: tuple[ParityRow, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


@neutral_state()
def task(
    folder: str | Path,
    adapters: Sequence[str] = (),
    output: str | Path = "task.safetensors",
    model: Any = None,
    fusions: Sequence[str] = (),
    atol: float | None = None,
    pooling: Mapping[str, str] | None = None,
    drop: int | None = None,
    heads: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | Mapping[str, Any] | None = None,
) -> TaskReport:
    """Make and verify the file of one task for a bundle with slots.

    Any number of services with this bundle load the file with `Predictor.add_task`, without torch and without a compiler. The
    task must have the structure of a task of the bundle, and at most as many labels as the task with the most.

    Args:
        folder: a folder that `export` wrote with `slots`, or its hub id; it is only read.
        adapters: as in `export`.
        output: the file to write; an earlier task file is replaced as a whole, any other file is an error.
        model: the trunk that the bundle was exported from, as in `add`; tasks of it that the bundle has are ignored.
        fusions: as in `export`.
        atol: allowed |onnx - torch| relative to max(1, max |torch|); the default is that of the bundle's precision.
        pooling: as in `export`.
        drop: drop of the task in a bundle whose tasks have different ones (`drop={task: number}`), one of these. None for the
            drop of each variant, the lowest of its tasks.
        heads: as in `add`.
        tasks: the task, as in `export`; None for the only one that the bundle does not have.

    Returns:
        The report.

    Raises:
        ExportError: no such bundle, no new task or several, or one that does not fit into the slots.
        VerificationError: the task's logits differ from PyTorch. In either case no file was written.
    """
    file = _file(output)
    with local_bundle(folder) as (local, source):
        _check_output(file, source)
        stages = Stages()
        with stages("load"):
            manifest = open_exported(local)
            _check_drop(manifest, drop)
            layouts = [_layout(local, manifest, variant) for variant in manifest.variants]
            checkpoint = load(model, False, adapters, fusions, pooling, heads)
            plans = [plan_new(checkpoint, manifest, variant, atol, drop, tasks).new for variant in manifest.variants]
            if len(plans[0].tasks) != 1:
                found = ", ".join(each.name for each in plans[0].tasks)
                raise ExportError(f"a task file holds one task, found {found}: name one with tasks (--tasks NAME)")
        with stages("prune"):
            pruned = [prune(checkpoint.model, plan) for plan in plans]
            for (task_group,) in pruned:
                check_finite(task_group.model)
            compare_with_library(checkpoint, plans[0])
        graphs, parity, notes = {}, list[ParityRow](), dict[str, None]()
        for variant, layout, plan, (task_group,) in zip(manifest.variants, layouts, plans, pruned, strict=True):
            (only,) = plan.tasks
            with stages("compile"):
                stored = load_stored_groups(local / variant.model, list(manifest.files))
                group = stored_group_of(stored, only)
                compiled = _compiled(stored, group, task_group, layout, plan)
                _check_graph(compiled, layout, local / slots_file(variant.model))
            with stages("verify"), explain_another_trunk():
                session = open_slots(local / slots_file(variant.model))
                rows, exact = verify_slots(session, layout, plan, [task_group], compiled.rows, {only.name: group})
                parity += rows
                notes |= dict.fromkeys(decided_in_fp64(exact))
            graphs[layout.identity] = (variant.drop, group, compiled.rows[only.name])
        with stages("save"):
            content = task_file_bytes(task_entry(only, (only.name,)), manifest.precision, graphs, parity)
            _write(file, content)
        return TaskReport(file, only.name, len(content), tuple(parity), tuple(notes), stages.seconds)


def _file(output: object) -> Path:
    if not isinstance(output, str | os.PathLike) or "\0" in str(output) or not str(output):
        raise ExportError(f"the output must be the path of a file, found {output!r}")
    path = Path(output).expanduser()
    if path.is_dir():
        raise ExportError(f"the output must be a file, found the folder {path}: name a file in it, such as {path / 'task'}")
    if not path.absolute().parent.is_dir():
        if path.parent.exists():
            raise ExportError(f"the output {str(output)!r} cannot be written: {str(path.parent)!r} is a file, not a folder")
        raise ExportError(f"there is no folder {path.absolute().parent} for the output: create it")
    return path


def _write(output: Path, content: bytes) -> None:
    try:
        write_whole(output, [content])  # services may read the file that it replaces
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"the output {str(output)!r} cannot be written, nothing was kept: {reason}") from error


def _check_drop(manifest: Manifest, drop: int | None) -> None:
    drops = sorted({layers.drop for variant in manifest.variants for layers in variant.tasks.values()})
    if drop is None or (len(manifest.variants) == 1 and drop in drops):
        return
    if len(manifest.variants) > 1:
        found = ", ".join(map(str, drops))
        raise ExportError(f"the bundle has variants for drop {found}, and a task file has weights for all of them: omit drop")
    raise ExportError(f"drop must be that of a task of the bundle, {' or '.join(map(str, drops))}; found {drop!r}")


def _layout(folder: Path, manifest: Manifest, variant: VariantEntry) -> SlotLayout:
    path = folder / layout_file(slots_file(variant.model))
    if path.name not in manifest.files:
        raise ExportError(f"{folder} has no slots for further tasks: export it again with --slots N")
    return SlotLayout.from_bytes(path.read_bytes(), path)


def _compiled(stored: Sequence[StoredGroup], group: int, task_group: TaskGroup, layout: SlotLayout, plan: Plan) -> SlotGraph:
    """Compile the graph of the bundle again, with the task in its group and no others."""
    (only,) = plan.tasks
    _check_labels(only, layout.groups[group].columns)
    weights = new_weights(stored[group], traceable(task_group), only)
    groups = [
        TracedGroup((only.name,), each.model, {name: [array] for name, array in weights.items()})
        if number == group
        else TracedGroup((), each.model, {name: [] for name in each.weights})
        for number, each in enumerate(copies([each.group for each in stored]))
    ]
    return compile_slots(groups, [each.columns for each in layout.groups], plan, layout.slots)


def _check_labels(only: Task, most: int) -> None:
    if width(only) > most:
        raise ExportError(
            f"the task {only.name!r} has {width(only)} labels, a slot of its structure has {most}: export the bundle with a "
            "task of that structure and as many labels"
        )


def _check_graph(compiled: SlotGraph, layout: SlotLayout, path: Path) -> None:
    """Check that the graph with the task is that of the bundle."""
    expected, found = layout.fingerprint, compiled.fingerprint
    if different := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
        raise ExportError(
            f"the task does not compile to the graph {path.name}: {different[0]} differs"
            + (f" and {len(different) - 1} more" if len(different) > 1 else "")
            + "; export the bundle again with this version and these packages"
        )


def _check_output(output: Path, folder: Path) -> None:
    """Refuse to replace anything but a task file, such as the weights of the adapter, before any work is done."""
    try:
        reason = unreplaceable(output, folder, is_task_file)
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
    if reason:
        raise ExportError(f"the output {str(output)!r} {reason}")
