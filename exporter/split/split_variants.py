"""Writes the split graphs of all variants of a bundle and verifies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from exporter.errors import ExportError
from exporter.plan import Plan
from exporter.split.cut import Cut, State, cut_states
from exporter.split.graphs import save_branches, save_trunk
from exporter.split.identity import WeightDigests
from exporter.split.kept_padding import padding_counts
from exporter.split.sessions import RowGraphs, SplitSessions
from exporter.split.verify import compare_split
from runtime.bundle import SplitEntry, StateEntry, routed_file, slots_file, split_files
from runtime.bundle.interface import BATCH
from runtime.bundle.split_entry import StateType
from runtime.slots.layout import SlotLayout, layout_file
from runtime.slots.task_file import own_weights

__all__ = ["split_variants"]

_ROWS = "rows"
# The names of the graphs of rows, from that of the graph of all tasks: the routed graph, and that with slots
_OF_ROWS: tuple[Callable[[str], str], ...] = (routed_file, slots_file)


def split_variants(
    folder: Path,
    graphs: Mapping[str, Plan],
    routed: bool,
    left: bool,
    before: Mapping[str, SplitEntry] = MappingProxyType({}),
) -> dict[str, SplitEntry]:
    """Split the graphs of a bundle where the trunk ends.

    A variant whose trunk has nothing that is worth storing, such as one without a drop, is not split.

    Args:
        folder: the folder of the graphs; receives the graphs of the trunks and the branches.
        graphs: file of each variant's graph -> its plan.
        routed: whether each variant has a routed graph, which is split too, as is one with slots if the folder has it.
        left: whether the bundle pads texts on the left.
        before: file of a variant's graph -> its entry before tasks were added. Its states are kept where possible, so that
            states that were computed with it remain valid.

    Returns:
        File of a variant's graph -> the manifest's entry.

    Raises:
        ExportError: no variant has a trunk that is worth storing.
        VerificationError: trunk and branches differ from the whole graph.
    """
    weights: WeightDigests = {}
    kept = {model: [state.identity for state in entry.states] for model, entry in before.items()}
    cuts = {model: _cut(folder, model, plan, routed, weights, kept.get(model, ())) for model, plan in graphs.items()}
    found = {}
    for model, (cut, of_rows) in cuts.items():
        if not cut.states:
            continue
        plan = graphs[model]
        states = _union(cut.states, *(each.states for each in of_rows.values()))
        own = dict.fromkeys(state.identity for state in states)
        others = _union(*(other.states for other, _ in cuts.values()))
        passing = [
            cut.storable[state.identity]
            for state in others
            if state.identity in (cut.passed & cut.storable.keys()) - own.keys()
        ]
        trunk, branches = split_files(model)
        # The names of values differ between the graphs; those of the states are equal.
        save_trunk(folder / model, [*(cut.storable[identity] for identity in own), *passing], folder / trunk)
        inputs = save_branches(folder / model, cut.states, folder / branches)
        written = {}
        for of_whole, each in of_rows.items():
            whole, part = of_whole(model), of_whole(branches)
            inputs += save_branches(folder / whole, each.states, folder / part)
            written[part] = _counterpart(folder, whole, plan)
        sessions = SplitSessions.load(folder, model, written)
        half = compare_split(sessions, plan, [state.name for state in states])
        entries = tuple(_entry(state) for state in states)
        routes, slots = (part if (part := of_whole(branches)) in written else "" for of_whole in _OF_ROWS)
        found[model] = SplitEntry(
            trunk=trunk,
            branches=branches,
            routed=routes,
            slots=slots,
            states=entries,
            passing=tuple(state.name for state in passing),
            inputs=tuple(entry.name for entry in plan.inputs if entry.name in inputs),
            padding_counts=padding_counts(sessions, plan, entries, left),
            saved=cut.saved,
            half_diff=half.difference,
            half_agreement=half.agreement,
        )
    if not found:
        drops = ", ".join(str(plan.drop) for plan in graphs.values())
        raise ExportError(
            f"the trunk at drop {drops} ends before the first layer, so that its states would save no time: choose a larger "
            "--drop, or export without --split"
        )
    return found


def _cut(
    folder: Path, model: str, plan: Plan, routed: bool, weights: WeightDigests, kept: Sequence[str]
) -> tuple[Cut, dict[Callable[[str], str], Cut]]:
    """Cut a variant's graph and, at values that it computes as well, its graphs of rows: one trunk serves all.

    Returns:
        The cut of the graph, and those of the graphs of `_OF_ROWS` that exist.
    """
    axes = {axis: plan.max_lengths.get(axis) for entry in plan.inputs for axis in entry.axes if axis != BATCH}
    tasks = len(plan.tasks)
    cut = cut_states(ir.load(folder / model).graph, axes, tasks, weights, kept)
    if not routed or not cut.states:
        return cut, {}
    known = [state.identity for state in cut.states]
    found: dict[Callable[[str], str], Cut] = {}
    for of_whole in _OF_ROWS:
        if (path := folder / of_whole(model)).exists():
            rows = ir.load(path).graph
            found[of_whole] = cut_states(rows, {**axes, _ROWS: None}, 1, weights, known, cut.storable.keys())
    return cut, found


def _counterpart(folder: Path, whole: str, plan: Plan) -> RowGraphs:
    """Return a routed graph, or one with slots and the weights of the bundle's tasks in them."""
    path = folder / layout_file(whole)
    if not path.exists():
        return RowGraphs(whole, len(plan.tasks), {})
    layout = SlotLayout.from_bytes(path.read_bytes(), path)
    rows: dict[int, list[Mapping[str, np.ndarray]]] = {}
    for name in layout.own.values():
        found = own_weights((folder / name).read_bytes(), name, layout, plan.drop)
        rows.setdefault(found.group, []).append(found.read())
    stacks = {
        weight.name: np.stack([own[slot % len(own)][weight.name] for slot in range(layout.slots)])
        for weight in layout.weights
        for own in (rows[weight.group],)
    }
    return RowGraphs(whole, layout.total, stacks)


def _union(*lists: Sequence[State]) -> list[State]:
    return list({state.identity: state for states in lists for state in states}.values())


def _entry(state: State) -> StateEntry:
    dtype: StateType = "float16" if state.dtype == ir.DataType.FLOAT16 else "float32"
    return StateEntry(state.name, state.identity, dtype, state.shape)
