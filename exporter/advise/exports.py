"""The exports that advice measures: all tasks at every drop, and the fusions with fewer members."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.advise.measurement_files import replace_text
from exporter.advise.request import Request
from exporter.errors import ExportError
from exporter.export_tasks import export
from exporter.models.compositions import fuses_of, members_of
from exporter.plan import Plan
from exporter.targets import needs_ranges
from exporter.texts.files import read_rows
from runtime.bundle import MANIFEST

# The attention of members is an average over tokens, which is steady with few texts; each text runs in PyTorch at every drop.
_CALIBRATION_TEXTS = 64


def export_all(request: Request, tasks: Any, drops: Sequence[int], folder: Path) -> Path:
    """Export all tasks at all drops over one weights file, with the templates, unless it is done.

    Raises:
        ExportError: the model cannot be exported.
    """
    ranges = needs_ranges(request.target, request.precision, request.int8_ranges)
    return _export(request, tasks, drops, folder / "all", None, request.calibration if ranges else None)


def members_to_try(request: Request, plan: Plan) -> list[int]:
    """Return the numbers of members to try besides all.

    Raises:
        ExportError: numbers were given, and no task is a fusion, one is out of range, or their texts are missing.
    """
    sizes = [len(members_of(fuse)) for task in plan.tasks for fuse in fuses_of(task.setup)]
    has_texts = request.calibration is not None or len(fusion_tasks(plan)) == 1
    if request.keep_fused is None:
        return sorted({number for number in (min(sizes) // 4, min(sizes) // 2) if number}) if sizes and has_texts else []
    if request.keep_fused and not sizes:
        raise ExportError("keep_fused was given, but no task with evaluation texts is a fusion: omit it")
    if wrong := [each for each in request.keep_fused if not 1 <= each <= min(sizes)]:
        raise ExportError(f"the number of members to keep must be from 1 to {min(sizes)}, found {wrong[0]}")
    if request.keep_fused and not has_texts:
        raise ExportError("several tasks are fusions, whose members are chosen by common texts: add --calibration FILE")
    return sorted({each for each in request.keep_fused if each < min(sizes)})


def calibration_file(request: Request, fused: str, folder: Path) -> str:
    """Return the file of texts by which members are chosen: that of the request, or some of a fusion's evaluation texts.

    Args:
        request: the request.
        fused: the task with a fusion.
        folder: where the file is written.
    """
    if request.calibration is not None:
        return request.calibration
    path = folder / "calibration.jsonl"
    rows = read_rows(Path(request.evaluation[fused]))
    numbers = sorted({number * len(rows) // _CALIBRATION_TEXTS for number in range(_CALIBRATION_TEXTS)})
    texts = [rows[number].text for number in numbers]
    records = [{"text": each} if isinstance(each, str) else {"text_a": each[0], "text_b": each[1]} for each in texts]
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def export_members(request: Request, tasks: Any, drops: Sequence[int], keep: int, calibration: str, folder: Path) -> Path:
    """Export the fusions with `keep` members at all drops at which they have some, unless it is done."""
    return _export(request, tasks, drops, folder / f"keep{keep}", keep, calibration)


def fusion_tasks(plan: Plan) -> list[str]:
    """Return the names of the tasks with a fusion."""
    return [task.name for task in plan.tasks if any(True for _ in fuses_of(task.setup))]


def selected(request: Request, names: Sequence[str]) -> Any:
    """Return the argument `tasks` of an export for some of the tasks."""
    adapters = request.tasks if isinstance(request.tasks, Mapping) else None
    return list(names) if adapters is None else {name: adapters[name] for name in names}


def _export(
    request: Request, tasks: Any, drops: Sequence[int], folder: Path, keep: int | None, calibration: str | None
) -> Path:
    if not (folder / MANIFEST).exists():
        export(
            request.model,
            tasks=tasks,
            drop=list(drops),
            output=folder,
            keep_fused=keep,
            calibration=calibration,
            precision=request.precision,
            target=request.target,
            int8_ranges=request.int8_ranges,
            extendable=True,
            adapters=request.adapters,
            fusions=request.fusions,
            pooling=request.pooling,
            heads=request.heads,
        )
    return folder
