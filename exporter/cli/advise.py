"""Advises on drops and fusion members from the command line."""

from __future__ import annotations

import argparse
import json

from exporter.advise.advise import advise
from exporter.advise.measurement_files import replace_text
from exporter.advise.picture import save_picture
from exporter.advise.request import Request
from exporter.advise.text import lines
from exporter.cli.option_values import evaluation_of, heads_of, pooling_of
from exporter.cli.output import printing
from exporter.cli.progress import shown_progress
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
        evaluation=evaluation_of(options.evaluation),
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
