"""Publishes a bundle from the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from exporter.cli.output import plain_console, printing
from exporter.hub.push import CARD, push


def run(options: argparse.Namespace) -> None:
    """Push the folder that the options name, and print where it is.

    Raises:
        ExportError: as `exporter.push`.
    """
    done = push(options.folder, options.repository, options.private, options.create_pr, options.base_model)
    with printing(f"{done.url} is written, but "):
        if options.json:
            print(json.dumps(asdict(done)))
        else:
            kept = "" if done.card else f"; the {CARD} of the repository is kept, because no push wrote it"
            gone = f"; removed of an earlier push: {', '.join(done.removed)}" if done.removed else ""
            plain_console().print(f"{done.url}: {len(done.files) + 1} files, commit {done.commit}{kept}{gone}", soft_wrap=True)
