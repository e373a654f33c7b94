"""From traced groups to the finished graphs of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.finish import finish, strip, write_first_tasks
from exporter.compile.passes import FoldConstantsPass
from exporter.compile.pipeline import JOINED, ROUTED, clean_groups, compile_groups, route_groups, run_passes
from exporter.compile.ranges import measure_ranges
from exporter.compile.target_passes import Measure, target_passes
from exporter.errors import ExportError
from exporter.models.inputs import BATCH
from exporter.plan import Plan
from exporter.texts.batches import Calibration
from exporter.traced_group import TracedGroup
from runtime.bundle import ROUTE_INPUTS, PassRow


@dataclass(frozen=True)
class Compiled:
    """The compiled graphs of one plan.

    Attributes:
        graph: the graph of all tasks for the plan's target and precision.
        routed: the routed graph for the same target and precision; None if it was not requested.
        reference: both graphs in fp32 with standard operators, because rounding can hide errors of the compiler; None if
            the graph itself is in fp32.
        passes: nodes and bytes before and after each pass, in order.
        kept: copies of the cleaned groups; empty if they were not requested.
    """

    graph: ir.Model
    routed: ir.Model | None
    reference: tuple[ir.Model, ir.Model | None] | None
    passes: tuple[PassRow, ...]
    kept: tuple[TracedGroup, ...]


def compile_plan(
    groups: Sequence[TracedGroup],
    plan: Plan,
    texts: Calibration | None = None,
    routed: Sequence[str] | None = None,
    keep: bool = False,
    clean: bool = False,
) -> Compiled:
    """Compile the traced groups to the graphs of a plan.

    Args:
        groups: the traced groups, which are changed in place.
        plan: the plan of all tasks.
        texts: calibration texts, to measure the ranges of activations for targets that need them.
        routed: the options that require a routed graph, empty if a bundle has one; None to compile none.
        keep: whether to return copies of the cleaned groups.
        clean: whether the groups are already cleaned.

    Raises:
        ExportError: a pass does not support this model, or its tasks cannot be routed.
    """
    passes: list[PassRow] = []
    try:
        ready = list(groups)
        if not clean:
            ready, passes = clean_groups(groups)
        kept = copies(ready) if keep else []
        own = [] if routed is None else copies(ready)
        graph, more = compile_groups(ready, BATCH)
        passes += more
        finished, reference = _lower(graph, plan, JOINED, passes, _measure(texts))
        for each in (finished, reference):
            if each is not None:
                finish(each, plan)
    except OSError as error:
        raise _unwritable(error) from error
    except Exception as error:  # of passes, onnx-ir, onnxscript and the reference implementation of ONNX
        raise ExportError(
            f"the graph compiler does not support this model: {error or type(error).__name__}; export fewer tasks (--tasks) to "
            "find the one whose adapter or head causes it, and report it with the model's configuration"
        ) from error
    if routed is None:
        return Compiled(finished, None, None if reference is None else (reference, None), tuple(passes), tuple(kept))
    try:
        names, every_row = [task.name for task in plan.tasks], plan.target == "tensorrt"
        graph, more = route_groups(own, BATCH, names, every_row)
        passes += more
        routes, reference_routes = _lower(graph, plan, ROUTED, passes, _measure(texts, len(plan.tasks)))
        for each in (routes, reference_routes):
            if each is not None:
                strip(each)
                write_first_tasks(each, [] if every_row else [names.index(group.tasks[0]) for group in own])
    except OSError as error:
        raise _unwritable(error) from error
    except Exception as error:  # as above
        reason = str(error.__cause__ or error) or type(error).__name__
        options = " and ".join(routed)
        required = f"which {options} require{'s' * (len(routed) == 1)}" if routed else "which the bundle has"
        raise ExportError(
            f"these tasks cannot be compiled to a routed graph, {required}: {reason}; "
            f"{f'omit {options}, or ' if routed else ''}export the tasks of that kind to a separate bundle"
        ) from error
    return Compiled(finished, routes, None if reference is None else (reference, reference_routes), tuple(passes), tuple(kept))


def _unwritable(error: OSError) -> ExportError:
    """Return the error for the graph whose ranges are measured, which is written to a temporary folder."""
    return ExportError(
        f"a temporary file cannot be written: {error.strerror or error}; free disk space, or set TMPDIR to a folder elsewhere"
    )


def _lower(
    graph: ir.Model, plan: Plan, name: str, passes: list[PassRow], measure: Measure | None
) -> tuple[ir.Model, ir.Model | None]:
    """Return the graph for the plan's target and, if that has a lower precision, a copy in fp32."""
    reference = graph.clone() if plan.rounds else None
    last = target_passes(plan.target, plan.precision, graph, measure, plan.opset, plan.int8_ranges)
    return run_passes(graph, last, name, passes), reference


def copies(groups: Sequence[TracedGroup]) -> list[TracedGroup]:
    """Return the groups with copies of their graphs and the same weights."""
    return [replace(group, model=group.model.clone()) for group in groups]


def _measure(texts: Calibration | None, tasks: int = 0) -> Measure | None:
    """Return a function that measures ranges on the texts; in a routed graph of `tasks` tasks, each text runs for all."""
    if texts is None:
        return None
    batches = [batch.feeds for batch in texts.batches]
    if tasks:
        batches = [{**feeds, **_every_route(len(next(iter(feeds.values()))), tasks)} for feeds in batches]
    return lambda model, names: measure_ranges(model, names, batches)


def _every_route(rows: int, tasks: int) -> dict[str, np.ndarray]:
    ids = (np.tile(np.arange(rows), tasks), np.repeat(np.arange(tasks), rows))
    return dict(zip(ROUTE_INPUTS, ids, strict=True))


def stored_form(group: TracedGroup) -> TracedGroup:
    """Return a clean group in the form in which a bundle keeps it for `add`; its graph is changed in place.

    Constants are folded as in the finished graph, so that both share the bytes of the trunk. Task weights are not folded, and
    neither are scales: whether they can be depends on the weights that the joined groups share.
    """
    model = group.model
    FoldConstantsPass(group.weights, transpose_weights=True)(model)
    common.RemoveUnusedNodesPass()(model)
    weights = {name: arrays for name, arrays in group.weights.items() if name in model.graph.initializers}
    return replace(group, model=model, weights=weights)
