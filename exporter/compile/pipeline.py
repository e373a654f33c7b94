"""The order of the passes, and the run that measures them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.passes.absorb_projections import AbsorbProjectionsPass
from exporter.compile.passes.drop_expands import DropExpandsPass
from exporter.compile.passes.drop_identities import DropIdentitiesPass
from exporter.compile.passes.drop_nan_guards import DropNanGuardsPass
from exporter.compile.passes.fold_constants import FoldConstantsPass
from exporter.compile.passes.fold_scales import FoldScalesPass
from exporter.compile.passes.measure_lengths import MeasureLengthsPass
from exporter.compile.passes.merge_casts import MergeCastsPass
from exporter.compile.passes.merge_reshapes import MergeReshapesPass
from exporter.compile.passes.merge_siblings import MergeSiblingsPass
from exporter.compile.passes.merge_transposes import MergeTransposesPass
from exporter.compile.passes.merge_weights import MergeWeightsPass
from exporter.compile.passes.move_scales import MoveScalesPass
from exporter.compile.passes.name_transposed import NameTransposedPass
from exporter.compile.passes.push_slices import PushSlicesPass
from exporter.compile.passes.reassociate_products import ReassociateProductsPass
from exporter.compile.passes.remove_no_ops import RemoveNoOpsPass
from exporter.compile.passes.reuse_sums import ReuseSumsPass
from exporter.compile.passes.share_lengths import ShareLengthsPass
from exporter.compile.passes.split_linears import SplitLinearsPass
from exporter.compile.passes.static_reshapes import StaticReshapesPass
from exporter.compile.passes.unflatten_linears import UnflattenLinearsPass
from exporter.compile.rewrite.refusals import RefusingPass
from exporter.compile.vmap.bind_stems import Binding, bind_stems
from exporter.compile.vmap.join_groups import JoinGroupsPass
from exporter.compile.vmap.merge_routes import MergeRoutesPass
from exporter.compile.vmap.route_tasks import RouteTasksPass
from exporter.compile.vmap.stem_rows import StemRows
from exporter.compile.vmap.vectorize_tasks import VectorizeTasksPass
from exporter.group_names import group_name, group_of
from exporter.traced_group import TracedGroup
from runtime.bundle import ROUTE_INPUTS, PassRow

_logger = logging.getLogger(__name__)
# Names of the joined graphs in reports.
JOINED, ROUTED = "all", "routed"
# Elements of a constant; few weights are as small.
_SMALL = 64


def template_passes(protected: Collection[str]) -> tuple[ir.passes.InPlacePass, ...]:
    """Return the passes that clean one traced template.

    Args:
        protected: names of the task weights, which keep their names until they are bound.
    """
    return (
        # Constants become initializers first: the CSE of onnx-ir ignores Constants with more than 10 elements.
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # Before Transposes are folded: the folded weight inherits the name.
        NameTransposedPass(),
        FoldConstantsPass(protected),
        DropIdentitiesPass(),
        # Equal operands under several names would hide equal nodes. Weights wait until the groups are joined.
        MergeWeightsPass(protected, size_limit=_SMALL),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        # torch annotates only its own operators; everything below also reads the shapes in between.
        common.ShapeInferencePass(),
        ShareLengthsPass(),
        common.CommonSubexpressionEliminationPass(),
        MergeCastsPass(),
        RemoveNoOpsPass(protected),
        UnflattenLinearsPass(),
        # After UnflattenLinears, which gives the layers of GPT-2 the form x W + b.
        SplitLinearsPass(protected),
        MergeTransposesPass(),
        # Again, for new Transposes.
        NameTransposedPass(),
        DropExpandsPass(),
        # After the no-ops are gone: their outputs hide that two shapes are equal.
        StaticReshapesPass(),
        MergeReshapesPass(),
        DropNanGuardsPass(),
        ReuseSumsPass(),
        # Sums of shape arithmetic that StaticReshapes left behind.
        FoldConstantsPass(protected),
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.ShapeInferencePass(),
        ReassociateProductsPass(),
        MergeTransposesPass(),
        # Dead operators would still read all rows of their operands.
        common.RemoveUnusedNodesPass(),
        # Before the tasks are vectorised, because it reads symbolic shapes that are still simple.
        PushSlicesPass(),
        common.CommonSubexpressionEliminationPass(),
    )


def final_passes() -> tuple[ir.passes.InPlacePass, ...]:
    """Return the passes that merge what the groups have in common and clean up after the vectoriser."""
    return (
        DropIdentitiesPass(),
        MergeWeightsPass(),
        common.CommonSubexpressionEliminationPass(),
        # After merging, so that a weight that two groups share is transposed and scaled once and stays shared.
        FoldConstantsPass(transpose_weights=True),
        MergeSiblingsPass(),
        # Before FoldScales, which then finds one factor where there were two.
        MoveScalesPass(),
        FoldScalesPass(),
        # After the scales are folded: they hide the projections.
        AbsorbProjectionsPass(),
        # Consecutive Reshapes that the vectoriser and PushSlices left behind.
        MergeReshapesPass(),
        RemoveNoOpsPass(),
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.TopologicalSortPass(),
    )


def clean_groups(groups: Sequence[TracedGroup]) -> tuple[list[TracedGroup], list[PassRow]]:
    """Clean the templates of the groups, in place.

    `compile_groups` and `route_groups` change the templates again: pass a copy to each.

    Returns:
        The groups with clean templates, and a row for each pass.
    """
    reports: list[PassRow] = []
    clean = []
    for number, group in enumerate(groups):
        model = run_passes(group.model, template_passes(group.weights.keys()), group_name(number), reports)
        clean.append(replace(group, model=model))
    return clean, reports


def compile_groups(groups: Sequence[TracedGroup], batch: str) -> tuple[ir.Model, list[PassRow]]:
    """Compile clean groups to one graph with the outputs of all tasks, in the order of the groups.

    Args:
        groups: the groups that `clean_groups` returned; their templates are changed in place.
        batch: the name of the batch axis.

    Returns:
        The graph, and a row for each pass.
    """
    reports: list[PassRow] = []

    def bind(group: TracedGroup, name: str, *, is_stem: bool = False, stem: StemRows | None = None) -> Binding:
        return Binding(name, group.model, VectorizeTasksPass(group.tasks, group.weights, name, batch, is_stem, stem))

    first, *others = [run_passes(each.model, (each.step,), each.name, reports) for each in bind_stems(groups, batch, bind)]
    joined = (JoinGroupsPass(others), *final_passes())
    return run_passes(first, joined, JOINED, reports), reports


def route_groups(
    groups: Sequence[TracedGroup], batch: str, tasks: Sequence[str], every_row: bool = False
) -> tuple[ir.Model, list[PassRow]]:
    """Compile clean groups to one graph in which each row selects a task.

    Args:
        groups: the groups that `clean_groups` returned; their templates are changed in place.
        batch: the name of the batch axis.
        tasks: the names of all tasks; a row selects one by its number here.
        every_row: whether each group computes all rows, as TensorRT requires.

    Returns:
        The graph, and a row for each pass.
    """
    reports: list[PassRow] = []

    def bind(group: TracedGroup, name: str, *, is_stem: bool = False, stem: StemRows | None = None) -> Binding:
        numbers = [tasks.index(each) for each in group.tasks]
        own = None if stem is None else [tasks.index(each) for each in stem.tasks]
        step = RouteTasksPass(group.tasks, group.weights, name, batch, numbers, len(tasks), every_row, is_stem, stem, own)
        return Binding(name, group.model, step)

    first, *others = [
        run_passes(each.model, (each.step,), f"{ROUTED} {each.name}", reports) for each in bind_stems(groups, batch, bind)
    ]
    return run_passes(first, _joined(others, every_row), ROUTED, reports), reports


def route_slots(groups: Sequence[TracedGroup], batch: str, slots: int, every_row: bool = False) -> ir.Model:
    """Compile clean groups to one routed graph in which the number of a task is that of a slot.

    Slots are numbered through all groups: group g has the slots from g x slots on. The stacks of task weights still have the
    length of the groups; `exporter.compile.slots` replaces them by inputs of the length `slots`.

    Args:
        groups: the groups that `clean_groups` returned, each with at least two tasks; their templates are changed in place.
        batch: the name of the batch axis.
        slots: slots of each group, at least as many as it has tasks.
        every_row: as in `route_groups`.
    """
    routed = []
    for number, group in enumerate(groups):
        numbers = range(number * slots, (number + 1) * slots)
        bind = RouteTasksPass(group.tasks, group.weights, group_name(number), batch, numbers, len(groups) * slots, every_row)
        routed.append(run_passes(group.model, (bind,), f"{ROUTED} {group_name(number)}", []))
    return run_passes(routed[0], _joined(routed[1:], every_row), ROUTED, [])


def _joined(others: Sequence[ir.Model], every_row: bool) -> tuple[ir.passes.InPlacePass, ...]:
    """Return the passes that join routed graphs."""
    passes = (JoinGroupsPass(others), MergeRoutesPass(ROUTE_INPUTS[0], every_row), *final_passes())
    # Of several groups, those that no row selects have no rows. After the other passes, which know constant targets.
    return (*passes, MeasureLengthsPass()) if others and not every_row else passes


def run_passes(
    model: ir.Model,
    passes: Iterable[ir.passes.InPlacePass],
    graph: str,
    reports: list[PassRow],
    observe: Callable[[ir.passes.InPlacePass, ir.Model], None] | None = None,
) -> ir.Model:
    """Run passes in their order.

    Args:
        model: the graph, which is changed in place.
        passes: the passes to run.
        graph: the name of the graph in the rows.
        reports: receives a row for each pass.
        observe: called after each pass with the pass and the model that it returned.

    Returns:
        The model that the last pass returned.
    """
    before = graph_size(model)
    for step in passes:
        model = step(model).model
        (nodes, size), name = graph_size(model), pass_name(step)
        reports.append(PassRow(name, graph, before[0], nodes, before[1], size))
        before = nodes, size
        if isinstance(step, RefusingPass) and step.refusals:
            _logger.debug("%s on %s: %d patterns were not applied", name, graph, len(step.refusals))
        if observe is not None:
            observe(step, model)
    return model


def pass_name(step: ir.passes.PassBase) -> str:
    """Return the name of a pass in reports."""
    return type(step).__name__.removesuffix("Pass")


def graph_size(model: ir.Model) -> tuple[int, int]:
    """Return the number of nodes and the bytes of the initializers."""
    return len(model.graph), _nbytes(model.graph.initializers.values())


def branch_size(model: ir.Model) -> tuple[int, int]:
    """Return the number of nodes and the bytes of weights of the branch.

    The branch is what the vectoriser named after a group, and everything that depends on it.
    """
    weights = [value for name, value in model.graph.initializers.items() if group_of(name) is not None]
    branch, nodes = set(weights), 0
    for node in model.graph:
        if any(value in branch for value in node.inputs):
            branch.update(node.outputs)
            nodes += 1
    return nodes, _nbytes(weights)


def _nbytes(values: Iterable[ir.Value]) -> int:
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)
