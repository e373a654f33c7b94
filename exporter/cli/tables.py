"""The tables of a report: per task, per fusion member, per pass."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from exporter.group_names import group_name
from exporter.models.compositions import Kept
from exporter.prune.fusion_scores import AttentionTable
from exporter.report import ExportedTask, VariantReport
from exporter.texts.drift import Drift
from runtime.bundle import ParityRow, PassRow
from runtime.printable import printable

# Longer compositions are named by their kind and their number of parts.
_SETUP_WIDTH = 22


def task_table(report: VariantReport, tasks: Sequence[ExportedTask], verbose: bool) -> Table:
    """Return a row per task with its head and parity; `verbose` adds its group and shortens no name."""
    composed = any(task.setup != task.name for task in tasks)
    dropped = any(task.drop != report.drop for task in tasks)
    table = _table(
        ["task", *(["adapters"] if composed else [])],
        ["head", "labels", *(["drop"] if dropped else []), "max diff", "argmax", *(["group"] if verbose else [])],
    )
    for task in tasks:
        setup = "" if task.setup == task.name else short_setup(task.setup)
        rows = [row for row in report.parity if row.task == task.name]
        table.add_row(
            *(_name(cell, fold=verbose) for cell in (task.name, *([setup] if composed else []))),
            task.head,
            str(len(task.labels)) if task.labels else "-",
            *([str(task.drop)] if dropped else []),
            difference(rows),
            "-" if task.head == "regression" else agreement(rows),
            *([group_name(task.group)] if verbose else []),
        )
    table.columns[1 + composed].justify = "left"
    return table


def variant_table(variants: Sequence[VariantReport]) -> Table:
    """Return a row per variant."""
    table = _table(["variant"], ["drop", "nodes", "weights", "max diff", "argmax"])
    for variant in variants:
        graph, rows = variant.graph, variant.parity
        table.add_row(
            variant.model, str(variant.drop), str(graph.nodes), size(graph.initializer_bytes), difference(rows), agreement(rows)
        )
    return table


def attention_table(table: AttentionTable, kept: Kept | None = None) -> Table:
    """Return a row per fusion member and a column per layer: measured scores in percent, with * if the member stays."""
    unit = "% of attention" if table.measured else "given scores"
    title = f"{table.task}: fusion {table.fusion}, {unit} per layer" + (", * kept" if kept else "")
    shown = Table(title=printable(title), padding=(0, 0))
    shown.add_column("member")
    for row in table.layers:
        shown.add_column(f"{row.layer} ", justify="right", no_wrap=True)
    for member in table.members:
        cells = []
        for row in table.layers:
            score = dict(zip(row.members, row.scores, strict=True)).get(member)
            mark = "*" if kept and member in kept.get(row.layer, row.members) else " "
            number = "-" if score is None else f"{100 * score:.0f}" if table.measured else f"{score:.2g}"
            cells.append(number + (mark if score is not None else " "))
        shown.add_row(printable(member), *cells)
    return shown


def drift_table(drifts: Sequence[Drift]) -> Table:
    """Return a row per task: how much its predictions change."""
    table = _table(["task"], ["mean |diff|", "max |diff|", "same argmax", "metric", "before", "after"])
    for row in drifts:
        metric = ["-" if value is None else f"{value:.3f}" for value in (row.metric_before, row.metric_after)]
        table.add_row(
            _name(row.task),
            f"{row.mean_abs:.3f}",
            f"{row.max_abs:.3f}",
            "-" if row.argmax_agreement is None else percent(row.argmax_agreement),
            row.metric or "-",
            *metric,
        )
    return table


def pass_table(steps: Sequence[PassRow]) -> Table:
    """Return a row per pass that changed the graph."""
    table = _table(["pass", "graph"], ["nodes", "after", "weights", "after "])
    for step in steps:
        nodes, weights = (step.nodes_before, step.nodes_after), (step.bytes_before, step.bytes_after)
        if nodes[0] != nodes[1] or weights[0] != weights[1]:
            table.add_row(_name(step.name), step.graph, *map(str, nodes), *map(size, weights))
    return table


def short_setup(setup: str) -> str:
    """Shorten a composition to a few words: "Fuse of 8" for a long one."""
    kind, _, inner = setup.partition("(")
    if len(setup) <= _SETUP_WIDTH or not inner:
        return setup
    depth, parts = 0, 1
    for character in inner:
        depth += {"(": 1, ")": -1}.get(character, 0)
        parts += character == "," and depth == 0
    return f"{kind} of {parts}"


def size(count: int) -> str:
    """Format bytes as MB, small numbers as kB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def percent(share: float) -> str:
    """Format a share of 0 to 1 in percent, rounded down: only 1 is 100 %."""
    return "100 %" if share >= 1 else f"{int(share * 1000) / 10:.1f} %"


def difference(rows: Sequence[ParityRow]) -> str:
    """Format the largest difference from PyTorch."""
    return f"{max(row.max_abs_diff for row in rows):.1e}"


def agreement(rows: Sequence[ParityRow]) -> str:
    """Format the lowest share of equal argmax."""
    return percent(min(row.argmax_agreement for row in rows))


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(name: str, fold: bool = False) -> Text:
    """Return a cell that takes one line at any width of the terminal, unless it may `fold`."""
    return Text(printable(name), no_wrap=not fold, overflow="fold" if fold else "ellipsis")
