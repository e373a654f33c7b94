"""Prints the report of an export: at most 30 lines, or everything with --verbose."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from exporter.cli.next_step import next_step
from exporter.cli.output import plain_console
from exporter.cli.summary import compositions, export_facts, text_facts, variant_facts
from exporter.cli.tables import (
    agreement,
    attention_table,
    difference,
    drift_table,
    pass_table,
    task_table,
    variant_table,
)
from exporter.report import ExportedTask, Report, VariantReport
from runtime.printable import printable

# The largest number of lines of a summary.
_LINES = 30
# Of more tasks than the first number, only the worst are listed, as many as the second number.
_TASKS, _WORST = 12, 10
# The lists of variants, fusions and texts have the first of these numbers of rows that leaves at least _LEAST rows for tasks.
_ROWS, _LEAST = (6, 4, 3, 2, 1, 0), 6
# More drops than this are counted, not listed.
_DROPS = 8
# The lines of a table's header and rule.
_HEADER = 2


def show_report(report: Report, options: argparse.Namespace, noun: str = "task") -> None:
    """Print the report as text, as JSON with --json, or not at all with --quiet.

    Args:
        report: what was exported.
        options: the options of the command line.
        noun: the noun for the tasks in the title.
    """
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    elif not options.quiet:
        print_report(report, next_step(report.output), plain_console(), options.verbose, noun)


def print_report(report: Report, following: Sequence[str], console: Console, verbose: bool = False, noun: str = "task") -> None:
    """Print a report as text.

    Args:
        report: what was exported.
        following: the lines to run next.
        console: where it is printed.
        verbose: print all rows of all tables and the passes of the compiler, instead of at most 30 lines.
        noun: the noun for the tasks in the title.
    """
    width = console.width
    count = len(report.tasks)
    title = f"{printable(report.source)}: {count} {noun}{'s' if count > 1 else ''}"
    ending = [*export_facts(report, width), Text(), Text("next:", "bold"), *map(Text, following)]
    if verbose:
        for variant in report.variants:
            _print_lines([Text(f"{title}, drop {variant.drop} of {report.layers} layers", "bold"), Text()], console)
            _print_tables(variant, console)
    else:
        _print_lines([Text(f"{title}, {_drops(report)} of {report.layers} layers", "bold"), Text()], console)
        _print_summary(report, ending, console)
    _print_lines(ending, console)


def _print_summary(report: Report, ending: Sequence[Text], console: Console) -> None:
    first, variants = report.variants[0], report.variants
    facts = variant_facts(first, console.width, only=len(variants) == 1)
    for rows in _ROWS:
        texts = text_facts(first, rows, console.width)
        listed = variants[: max(rows, 1)] if len(variants) > 1 else ()
        several = len(listed) + (len(variants) > len(listed)) + _HEADER + 1 if listed else 0
        room = _LINES - 2 - _HEADER - 1 - several - len(facts) - len(texts) - len(ending)
        if room >= min(len(first.tasks), _LEAST):
            break
    _print_tasks(first, room, console)
    if listed:
        console.print(variant_table(listed))
        if rest := variants[len(listed) :]:
            _print_lines([_rest(f"{len(rest)} more variants", rest, first.tasks)], console)
        _print_lines([Text()], console)
    _print_lines([*facts, *texts], console)


def _print_tasks(report: VariantReport, room: int, console: Console) -> None:
    tasks: Sequence[ExportedTask] = report.tasks
    if len(tasks) > min(room, _TASKS):
        ratio = {task.name: 0.0 for task in tasks}
        for row in report.parity:
            ratio[row.task] = max(ratio[row.task], row.max_abs_diff / row.tolerance)
        tasks = sorted(tasks, key=lambda task: -ratio[task.name])
        listed = max(1, min(room - 1, _WORST))
        console.print(task_table(report, tasks[:listed], verbose=False))
        _print_lines([_rest(f"{len(tasks) - listed} more tasks", [report], tasks[listed:])], console)
    else:
        console.print(task_table(report, tasks, verbose=False))
    _print_lines([Text()], console)


def _drops(report: Report) -> str:
    drops = [variant.drop for variant in report.variants]
    if len(drops) > _DROPS:
        return f"{len(drops)} drops from {min(drops)} to {max(drops)}"
    return f"drop{'s' if len(drops) > 1 else ''} {', '.join(map(str, drops))}"


def _rest(what: str, variants: Sequence[VariantReport], tasks: Sequence[ExportedTask]) -> Text:
    names = {task.name for task in tasks}
    rows = [row for variant in variants for row in variant.parity if row.task in names]
    return Text(f"and {what}: max diff at most {difference(rows)}, argmax at least {agreement(rows)}")


def _print_tables(variant: VariantReport, console: Console) -> None:
    console.print(task_table(variant, variant.tasks, verbose=True))
    _print_lines([Text(), *compositions(variant, console.width), *variant_facts(variant, console.width)], console)
    for fusion in variant.fusions:
        console.print(Text(), attention_table(fusion.table, fusion.kept))
    if variant.drift:
        console.print(Text("\ncalibration texts, compared with all adapters in all layers", "bold"))
        console.print(drift_table(variant.drift))
    if variant.evaluation:
        console.print(Text("\nevaluation texts, compared with PyTorch in fp32", "bold"))
        console.print(drift_table(variant.evaluation))
    console.print(Text("\npasses that changed the graph", "bold"))
    console.print(pass_table(variant.graph.passes))
    _print_lines([Text()], console)


def _print_lines(lines: Sequence[Text], console: Console) -> None:
    for line in lines:
        # Users copy paths and commands: the terminal may wrap them, but no line break may be inserted.
        console.print(line, soft_wrap=True, highlight=False)
