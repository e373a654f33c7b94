"""Advises on drops and fusion members from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from exporter.advise.advise import advise
from exporter.advise.kept import replace_text
from exporter.advise.picture import save_picture
from exporter.advise.request import Request
from exporter.advise.text import lines
from exporter.cli.option_values import heads_of, pooling_of
from exporter.cli.output import printing
from exporter.cli.progress import shown_progress
from exporter.errors import ExportError
from runtime.printable import printable


def run(options: argparse.Namespace) -> int:
    """Measure, choose, and print the advice.

    Returns:
        0 if a combination is chosen, 1 if none is.

    Raises:
        ExportError: wrong use, an unsupported model or bad input.
    """
    if options.max_loss is None and options.latency is None:
        options.max_loss = 0.01
    request = Request(
        evaluation=_evaluation(options.evaluation),
        model=options.model,
        adapters=options.adapter,
        fusions=options.fusion,
        pooling=pooling_of(options.pooling),
        heads=heads_of(options.head),
        tasks=options.tasks,
        precision=options.precision,
        target=options.target,
        int8_ranges=options.int8_ranges,
        calibration=options.calibration,
        keep_fused=options.keep_fused,
        shape=options.shape,
        threads=options.threads,
        max_loss=options.max_loss,
        latency=options.latency,
        max_drop=options.max_drop,
        limit=options.limit,
    )
    with shown_progress(options.quiet):
        found = advise(request, options.output)
    replace_text(options.output / "advice.json", json.dumps(found.to_dict(), indent=1) + "\n")
    picture = save_picture(found, options.output / "pareto.png")
    with printing():
        if options.json:
            print(json.dumps(found.to_dict(), indent=2))
        else:
            print("\n".join(map(printable, lines(found))))
            note = f"drew {options.output / 'pareto.png'}" if picture else "no picture: pip install matplotlib"
            print(f"\nwrote {options.output / 'advice.json'}; {note}")
    return 0 if found.chosen is not None else 1


def _evaluation(files: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in files:
        task, equals, file = text.partition("=")
        if not equals or not task.strip() or not file:
            raise ExportError(f"--evaluation must be TASK=FILE, because labels belong to one task; found {text!r}")
        if task.strip() in found:
            raise ExportError(f"--evaluation names the task {task.strip()!r} twice")
        found[task.strip()] = file
    return found
