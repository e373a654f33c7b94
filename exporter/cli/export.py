"""Runs an export from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from exporter.cli.option_values import evaluation_of, heads_of, pooling_of
from exporter.cli.output import printing
from exporter.cli.print_report import show_report
from exporter.cli.progress import shown_progress
from exporter.export_tasks import export


def run(options: argparse.Namespace) -> None:
    """Export what the options name, and print the report.

    Raises:
        ExportError: as `exporter.export`.
    """
    with shown_progress(options.quiet):
        report = export(
            options.model,
            False if options.no_tokenizer else None,
            tasks=options.tasks,
            drop=options.drop,
            output=options.output,
            keep_fused=options.keep_fused,
            calibration=options.calibration,
            precision=options.precision,
            target=options.target,
            routed=options.routed,
            extendable=options.extendable,
            split=options.split,
            opset=options.opset,
            atol=options.atol,
            overwrite=options.overwrite,
            evaluation=_evaluation(options.evaluation),
            max_disagreement=options.max_disagreement,
            adapters=options.adapter,
            fusions=options.fusion,
            int8_ranges=options.int8_ranges,
            pooling=pooling_of(options.pooling),
            heads=heads_of(options.head),
            slots=options.slots,
            with_tokenizer=options.with_tokenizer,
            layout=options.layout,
        )
    with printing(f"{report.output} is written, but "):
        show_report(report, options)


def _evaluation(files: Sequence[str]) -> str | dict[str, str] | None:
    """FILE for all tasks, or TASK=FILE for each."""
    if len(files) == 1 and "=" not in files[0]:
        return files[0]
    return evaluation_of(files) or None
