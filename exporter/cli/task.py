"""Makes the file of one task from the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from exporter.cli.option_values import heads_of, pooling_of
from exporter.cli.output import plain_console, printing
from exporter.cli.progress import shown_progress
from exporter.task_files import TaskReport, task
from runtime.printable import printable


def run(options: argparse.Namespace) -> None:
    """Make the file that the options name, and print what is in it.

    Raises:
        ExportError: as `exporter.task`.
    """
    pooling, heads = pooling_of(options.pooling), heads_of(options.head)
    with shown_progress(options.quiet):
        report = task(
            options.folder,
            options.adapter,
            options.output,
            options.model,
            options.fusion,
            options.atol,
            pooling,
            options.drop,
            heads,
            options.tasks,
        )
    with printing(f"{report.output} is written, but "):
        if options.json:
            print(json.dumps({**asdict(report), "output": str(report.output)}))
        elif not options.quiet:
            plain_console().print(_text(report), soft_wrap=True)


def _text(report: TaskReport) -> str:
    worst = max(row.max_abs_diff for row in report.parity)
    shapes = ", ".join(dict.fromkeys(f"{row.batch}x{row.sequence}" for row in report.parity))
    notes = "".join(f"note: {each}\n" for each in report.notes)
    return (
        f"{printable(str(report.output))}: the task {printable(report.task)}, {report.bytes / 1e6:.2f} MB\n"
        f"verified in a slot against single-task PyTorch at {shapes}: max diff {worst:.1e}\n{notes}"
        f"add it to a running service: predictor.add_task({report.task!r}, {str(report.output)!r})"
    )
