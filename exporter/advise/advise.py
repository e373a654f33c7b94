"""Measures the tasks at every drop, and chooses drops and fusion members."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from exporter.advise.choose import choose, is_precise, losses, shortage
from exporter.advise.combinations import Branch, Combination, Templates
from exporter.advise.costs import CostModel, count
from exporter.advise.exports import (
    calibration_file,
    export_all,
    export_members,
    fusion_tasks,
    members_to_try,
    selected,
)
from exporter.advise.measurement_files import only_run
from exporter.advise.measurements import Measurements
from exporter.advise.metrics import METRICS, Array, Estimate, by_text, estimates
from exporter.advise.read import Data, check_request, read
from exporter.advise.request import Request, export_command
from exporter.advise.result import Advice, TaskTable
from exporter.advise.search import Front, Losses, Point, front, undominated
from exporter.advise.timing import Timing, corners
from exporter.errors import ExportError
from exporter.models.neutral_state import neutral_state
from exporter.plan import Task
from exporter.stages import Stages
from exporter.targets import needs_ranges
from exporter.texts.batches import Calibration
from exporter.texts.files import Text

# A chosen combination is measured and added to the fit. If another one then looks better, it is measured too.
_REFINEMENTS = 6
_LOGGER = logging.getLogger("exporter.stages")


@neutral_state()
def advise(request: Request, folder: Path) -> Advice:
    """Measure the metric of every task at every drop and the time of some combinations, and choose the best combination.

    Progress is logged at level INFO by the logger "exporter.stages".

    Args:
        request: the model, the texts and the limits.
        folder: folder of the measurements; another run of the same request continues from them.

    Raises:
        ExportError: wrong use, an unsupported model, or bad input.
    """
    check_request(request)
    stages = Stages()
    with stages("read"):
        own = folder / request.key()
        data = read(request)
        fused, sizes = fusion_tasks(data.plan), members_to_try(request, data.plan)
    with only_run(own):
        return _advise(request, own, data, fused, sizes, stages)


def _advise(request: Request, own: Path, data: Data, fused: Sequence[str], sizes: Sequence[int], stages: Stages) -> Advice:
    drops = range(data.last + 1)
    whole = export_all(request, data.tasks, drops, own)
    calibration = calibration_file(request, fused[0], own) if sizes else request.calibration
    # A fusion that is dropped from all layers has no members.
    below = [drop for drop in drops if drop < data.plan.layers]
    members = {keep: export_members(request, selected(request, fused), below, keep, str(calibration), own) for keep in sizes}
    templates = Templates(data.plan, data.ranges, whole, members)
    measurements = Measurements(own, data.plan, templates, request.threads)
    tables = _tables(data, drops, sorted(members), measurements, stages)
    with stages("count"):
        counts = count(templates, drops, sorted(members), data.shape, own)
    names = [task.name for task in data.plan.tasks]
    timing = Timing(measurements, counts, names, data.shape)
    timing.add(corners(counts, names, drops, sorted(members)), stages)
    every = losses(tables, sorted(members))
    precise = losses(tables, sorted(members), lambda each: is_precise(each, request.max_loss))
    nearest, reason, fits = _search(timing, precise, request, stages)
    model, found = _front(timing, every)
    estimated, _, _ = choose([*found.points, *timing.points(every)], request.max_loss, request.latency, timing.times)
    if lacking := shortage(tables, request.max_loss):
        nearest, reason, fits = estimated, f"too few texts to choose: {lacking}", False
    nearest = _timed(nearest, timing.times)
    kept = nearest.combination.keep
    ranges = request.calibration if needs_ranges(request.target, request.precision, request.int8_ranges) else None
    command = export_command(
        request, nearest.combination.drops, kept, ranges if kept is None else calibration, bool(data.left_out)
    )
    return Advice(
        source=data.source,
        layers=data.plan.layers,
        shape=data.shape,
        precision=request.precision,
        tasks=tables,
        left_out=data.left_out,
        front=undominated([*(_timed(point, timing.times) for point in found.points), *timing.points(every)]),
        uniform=_uniform(drops, names, every, timing.times),
        exact=found.exact,
        base_seconds=timing.times[str(timing.reference)],
        errors=model.errors,
        measured=timing.times,
        nearest=nearest,
        estimated=_timed(estimated, timing.times),
        chosen=nearest if fits else None,
        reason=reason,
        command=command if fits else "",
    )


def _timed(point: Point, times: Mapping[str, float]) -> Point:
    return replace(point, seconds=times.get(str(point.combination), point.seconds))


def _uniform(drops: Sequence[int], names: Sequence[str], every: Losses, times: Mapping[str, float]) -> tuple[Point, ...]:
    """Return all tasks at equal drops, where that is measured."""
    combinations = {drop: Combination(dict.fromkeys(names, drop)) for drop in drops}
    return tuple(
        Point(each, times[str(each)], max(0.0, *(every[None][name][drop] for name in names)))
        for drop, each in combinations.items()
        if str(each) in times
    )


def _tables(
    data: Data, drops: Sequence[int], members: Sequence[int], measurements: Measurements, stages: Stages
) -> dict[str, TaskTable]:
    fused = fusion_tasks(data.plan)
    tables = {}
    for number, task in enumerate(data.plan.tasks, 1):
        branches = [Branch(task.name, drop) for drop in drops]
        if task.name in fused:
            branches += [Branch(task.name, drop, keep) for keep in members for drop in drops if drop < data.plan.layers]
        texts = data.texts[task.name]
        count = len(texts.texts)

        def progress(done: int, name: str = task.name, count: int = count) -> None:
            text = f"score {name}: {done:,} of {count:,} texts"
            _LOGGER.info(text, extra={"running": text})

        with stages("score", f"{task.name} (task {number} of {len(data.plan.tasks)}, texts: {count:,})"):
            rows = measurements.sums(task, branches, texts, data.labels[task.name], progress)
            numbers = _different(texts.texts)
            found = estimates(task.head.kind, [by_text(each, numbers) for each in rows])
        tables[task.name] = _table(task, texts, int(numbers.max()) + 1, dict(zip(branches, found, strict=True)))
    return tables


def _different(texts: Sequence[Text]) -> Array:
    """Return the number of each text among the different ones."""
    known = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([known[text] for text in texts])


def _table(task: Task, texts: Calibration, different: int, found: Mapping[Branch, Estimate]) -> TaskTable:
    first = next(iter(found.values()))
    metric = METRICS[task.head.kind]
    if not first.metric > 0:
        raise ExportError(
            f"the {metric} of the task {task.name!r} at drop 0 is {first.metric:.3f}, so that no share of it can be kept: "
            "check the labels, or leave the task out"
        )
    by_members: dict[int, dict[int, Estimate]] = {}
    for branch, each in found.items():
        if branch.keep is not None:
            by_members.setdefault(branch.keep, {})[branch.drop] = each
    by_drop = {branch.drop: each for branch, each in found.items() if branch.keep is None}
    return TaskTable(metric, len(texts.texts), different, texts.available, by_drop, by_members)


def _front(timing: Timing, considered: Losses) -> tuple[CostModel, Front]:
    model = timing.fit()
    return model, front(model, considered)


def _search(timing: Timing, considered: Losses, request: Request, stages: Stages) -> tuple[Point, str, bool]:
    """Choose a combination, and measure it and those that then look better; at last, choose among those that are measured."""
    for _ in range(_REFINEMENTS):
        points = [*_front(timing, considered)[1].points, *timing.points(considered)]
        chosen = choose(points, request.max_loss, request.latency, timing.times)
        if str(chosen[0].combination) in timing.times:
            return chosen
        timing.add([chosen[0].combination], stages)
    return choose(timing.points(considered), request.max_loss, request.latency, timing.times)
