"""The facts of a report as labelled lines."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.text import Text

from exporter.cli.tables import percent, short_setup, size
from exporter.plan import TaskPadding
from exporter.prune.fusion_members import FusionReport
from exporter.report import Report, VariantReport
from exporter.texts.drift import Drift
from runtime.bundle import ParityRow, SplitEntry
from runtime.bundle.entries import PAIR_SUMS
from runtime.bundle.interface import SEQUENCE
from runtime.printable import printable

# The width of the labels.
_LABEL = 15
# The smallest width of the text after a label.
_NARROW = 24
# The largest number of fusion members that are named.
_MEMBERS = 4


def variant_facts(variant: VariantReport, width: int, only: bool = True) -> list[Text]:
    """Return the part that is computed once, the sizes, where an int8 graph runs, and the notes.

    Args:
        variant: the variant.
        width: columns of the terminal; longer texts are wrapped.
        only: whether there are no further variants. Otherwise a table has the sizes, and the texts name the drop.
    """
    graph, total, stored = variant.graph, variant.adapter_parameters, variant.stored_adapter_parameters
    lines = _fact("computed once", variant.shared if only else f"at drop {variant.drop}: {variant.shared}", width)
    if only:
        nodes = f"{graph.nodes} nodes ({graph.trunk_nodes} in the trunk)"
        weights = f"{size(graph.initializer_bytes)} ({size(graph.shared_bytes)} shared)"
        lines += _fact("graph", f"{nodes}, {weights}", width)
    if any(row.name == PAIR_SUMS for row in graph.passes):
        lines += _fact("int8", "runs on processors with and without VNNI", width)
    if stored < total:
        shared = f"{100 * (1 - stored / total):.0f} % shared"
        lines += _fact("adapters", f"{total:,} parameters, {stored:,} stored ({shared})", width)
    for number, (cost, names) in enumerate(_costs(variant).items()):
        lines += _fact("" if number else "own weights", f"{', '.join(names)}: {cost}", width)
    for number, text in enumerate(_padding(variant)):
        lines += _fact("" if number else "padded", text, width)
    for number, note in enumerate(variant.notes):
        lines += _fact("" if number else "notes", note, width)
    if variant.routed:
        lines += _fact("routed graph", f"{variant.routed}: each row selects an input row and a task", width)
    if variant.split is not None:
        lines += _fact("split graphs", _split(variant.split), width)
    if variant.text_graph:
        lines += _fact("from texts", f"{variant.text_graph}: inputs text and text_pair, with onnxruntime-extensions", width)
    return lines


def _split(split: SplitEntry) -> str:
    """Describe the states between the trunk and the branches: their size, and what they save."""
    width = {"float16": 2, "float32": 4}
    sizes: dict[str, int] = defaultdict(int)
    for state in split.states:
        axes = [axis for axis in state.shape[1:] if not axis.isdecimal()]
        count = math.prod(int(axis) for axis in state.shape if axis.isdecimal())
        sizes[" x ".join(axes)] += count * width[state.dtype]
    each = ", ".join(f"{size(count)} per {'token' if axes == SEQUENCE else axes or 'text'}" for axes, count in sizes.items())
    return f"{split.trunk}, {split.branches}: states of {each} save {percent(split.saved)} of the operations of one task"


def _costs(variant: VariantReport) -> dict[str, list[str]]:
    """Return the weights that a task does not share -> the tasks, where changes of weights were computed."""
    found: dict[str, list[str]] = defaultdict(list)
    for task in variant.tasks:
        if task.forms:
            forms = ", ".join(f"{form} in {count} layers" for form, count in task.forms.items())
            found[f"{size(task.bytes)} each, {forms}"].append(task.name)
    return found


def _padding(variant: VariantReport) -> Iterator[str]:
    """Describe, for each group, the tasks that are padded with zeros and what that costs at most."""
    padded: dict[int, dict[str, TaskPadding]] = defaultdict(dict)
    for task in variant.tasks:
        if task.padding is not None:
            padded[task.group][task.name] = task.padding
    for own in padded.values():
        names = [*own][:_MEMBERS]
        more = f" and {len(own) - len(names)} more" if len(own) > len(names) else ""
        operations = max(each.operations for each in own.values())
        zeros = size(sum(each.bytes for each in own.values()))
        yield f"{', '.join(names)}{more}: {zeros} of zeros, at most {percent(operations)} more operations per task"


def compositions(variant: VariantReport, width: int) -> list[Text]:
    """Return the compositions that are too long for a table."""
    long = [task for task in variant.tasks if short_setup(task.setup) != task.setup]
    return [
        line
        for number, task in enumerate(long)
        for line in _fact("" if number else "compositions", f"{task.name} = {task.setup}", width)
    ]


def text_facts(variant: VariantReport, rows: int, width: int) -> list[Text]:
    """Return the measurements on texts, in a few lines per list: attention of fusion members, drift, evaluation.

    Args:
        variant: the variant.
        rows: how many fusions or tasks each list names; the others are counted.
        width: columns of the terminal.
    """
    lines = []
    for number, fusion in enumerate(variant.fusions[:rows]):
        lines += _fact("" if number else "fusions", _fusion(fusion), width)
    if rest := len(variant.fusions[rows:]):
        lines += [_labelled("", f"and {rest} more") if rows else _labelled("fusions", f"{rest}, listed with --verbose")]
    lines += _drifts("calibration", "compared with all adapters in all layers:", variant.drift, rows, width)
    lines += _drifts("evaluation", "compared with PyTorch in fp32:", variant.evaluation, rows, width)
    return lines


def export_facts(report: Report, width: int) -> list[Text]:
    """Return how the graph was verified, the time of each stage, and the folder that was written."""
    shapes = ", ".join(dict.fromkeys(_shape(row) for row in report.parity))
    images = all(row.sequence == 0 for row in report.parity)
    lines = _fact("verified", f"against single-task PyTorch at {'batch ' if images else ''}{shapes}", width)
    stages = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in report.seconds.items())
    lines += _fact("time (s)", stages, width)
    # Users copy the path: it is never wrapped.
    return [*lines, _labelled("written to", str(report.output))]


def _fact(label: str, text: str, width: int) -> list[Text]:
    parts = textwrap.wrap(text, max(_NARROW, width - _LABEL), break_long_words=False, break_on_hyphens=False)
    return [_labelled("" if number else label, part) for number, part in enumerate(parts)]


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((label.ljust(_LABEL), "bold"), printable(text))


def _fusion(report: FusionReport) -> str:
    """Describe the members that stay, or all members, with their mean attention over the layers."""
    table, kept = report.table, report.kept
    scores: dict[str, list[float]] = defaultdict(list)
    for row in table.layers:
        for name, score in zip(row.members, row.scores, strict=True):
            scores[name].append(score)
    members = [name for name in table.members if name in scores]
    head = f"{table.task}: {len(table.members)} members"
    if kept is not None:
        counts = [len(kept.get(row.layer, row.members)) for row in table.layers]
        members = [name for name in members if any(name in kept.get(row.layer, row.members) for row in table.layers)]
        least, most = min(counts, default=0), max(counts, default=0)
        head += f", {least if least == most else f'{least} to {most}'} kept per layer"
    means = {name: sum(scores[name]) / len(scores[name]) for name in members}
    ranked = sorted(members, key=lambda name: -means[name])
    shown = [
        f"{name} {100 * means[name]:.0f} %" if table.measured else f"{name} {means[name]:.2g}" for name in ranked[:_MEMBERS]
    ]
    more = f" and {len(ranked) - _MEMBERS} more" if len(ranked) > _MEMBERS else ""
    return f"{head}; mean {'attention' if table.measured else 'score'}: {', '.join(shown)}{more}"


def _drifts(label: str, title: str, drifts: Sequence[Drift], rows: int, width: int) -> Iterator[Text]:
    """Describe the tasks whose predictions change most, and the largest change of the others."""
    if not drifts:
        return
    if rows:
        yield from _fact(label, title, width)
    ranked = sorted(drifts, key=lambda row: (1.0 if row.argmax_agreement is None else row.argmax_agreement, -row.mean_abs))
    for row in ranked[:rows]:
        yield from _fact("", _drift(row), width)
    if rest := ranked[rows:]:
        least = min((row.argmax_agreement for row in rest if row.argmax_agreement is not None), default=None)
        same = "" if least is None else f", at least {percent(least)} same argmax"
        yield _labelled("", f"and {len(rest)} more{same}") if rows else _labelled(label, f"{len(rest)} tasks{same}")


def _drift(row: Drift) -> str:
    parts = [] if row.argmax_agreement is None else [f"{percent(row.argmax_agreement)} same argmax"]
    if row.metric is not None:
        before, after = ("-" if value is None else f"{value:.3f}" for value in (row.metric_before, row.metric_after))
        parts.append(f"{row.metric} {before} -> {after}")
    if len(parts) < 2:
        parts.append(f"mean |diff| {row.mean_abs:.3f}")
    changed = max(row.changed_by_padding or 0.0, row.changed_by_batch or 0.0)
    if changed:
        parts.append(f"{100 * changed:.1f} % change with padding or other texts")
    return f"{row.task}: {', '.join(parts)}"


def _shape(row: ParityRow) -> str:
    return f"{row.batch}x{row.sequence}" if row.sequence else str(row.batch)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
