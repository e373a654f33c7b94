"""Command line: the main benchmark, `python -m benchmarks --quick`, and the commands of the suite."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from benchmarks.command import exit_status
from benchmarks.options import parse
from runtime.program import import_failure, terminable

# Commands of the suite; without one of them, the main benchmark runs.
_COMMANDS = ("suite", "compare", "quick_ratios")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in _COMMANDS:
        found: int = importlib.import_module(f"benchmarks.{given[0]}").main(given[1:])
        return found
    options = parse(given)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def work() -> None:
        # Imported by name and late: importing torch takes seconds, which --help and a mistyped option must not cost.
        importlib.import_module("benchmarks.main_run").run(options)

    try:
        with terminable():
            return exit_status(work)
    except ImportError as error:
        remedy = "install adapterdrop-onnx[export,adapters,cpu,benchmark]"
        print(f"error: {import_failure(error, remedy)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: only the shapes that were finished are written", file=sys.stderr)
        return 130
