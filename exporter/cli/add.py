"""Adds tasks to an exported folder from the command line."""

from __future__ import annotations

import argparse

from exporter.add_tasks import add
from exporter.cli.option_values import heads_of, pooling_of
from exporter.cli.output import printing
from exporter.cli.print_report import show_report
from exporter.cli.progress import shown_progress


def run(options: argparse.Namespace) -> None:
    """Add the tasks that the options name, and print the report.

    Raises:
        ExportError: as `exporter.add`.
    """
    with shown_progress(options.quiet):
        report = add(
            options.folder,
            options.adapter,
            options.model,
            options.fusion,
            options.atol,
            pooling_of(options.pooling),
            heads_of(options.head),
            options.tasks,
        )
    with printing(f"{report.output} is written, but "):
        show_report(report, options, noun="new task")
