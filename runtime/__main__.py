"""Entry point of `python -m runtime`."""

import importlib
import sys
from collections.abc import Sequence

from runtime.program import INSTALL, import_failure, shorten_interrupts
from runtime.standard_output import failed, flushed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `runtime.command_line`.

    Args:
        arguments: those after `python -m runtime`; by default those of this process.

    Returns:
        The exit status, as in `runtime.command_line.main`; 2 if ONNX Runtime or another package is missing or incomplete.
    """
    try:
        command_line = importlib.import_module("runtime.command_line")
    except ImportError as error:
        return failed(import_failure(error, INSTALL))
    status: int = command_line.main(arguments)
    return status


if __name__ == "__main__":
    shorten_interrupts()
    sys.exit(flushed(main))
