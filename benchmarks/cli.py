"""The command line: python -m benchmarks --quick."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from benchmarks.options import parse
from benchmarks.variant import MismatchError
from exporter.errors import ExportError


def _raise_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # A terminated run removes its temporary files like an interrupted one.
    signal.signal(signal.SIGTERM, _raise_interrupt)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        # By name: importing torch takes seconds, and --help and a mistyped option should not.
        importlib.import_module("benchmarks.suite").run(options)
    except MismatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0
