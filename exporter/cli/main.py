"""The command line: python -m exporter --drop 5."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence

from exporter.cli.advise_options import advise_parser
from exporter.cli.folder_options import add_parser, inspect_parser, push_parser, task_parser
from exporter.cli.options import export_parser
from exporter.errors import ExportError, VerificationError
from runtime.command_options import CommandParser
from runtime.program import as_called, import_failure, nearest_command, terminable
from runtime.standard_output import print_error

# First argument -> its options, and the module whose run(options) does the work. The module is loaded by name once the options
# are read: importing torch takes seconds, and neither --help nor a mistyped option needs it.
_COMMANDS: dict[str, tuple[Callable[[], CommandParser], str]] = {
    "add": (add_parser, "exporter.cli.add"),
    "task": (task_parser, "exporter.cli.task"),
    "inspect": (inspect_parser, "exporter.cli.inspect"),
    "advise": (advise_parser, "exporter.cli.advise"),
    "push": (push_parser, "exporter.cli.push"),
}
_EXPORT = (export_parser, "exporter.cli.export")
# Module -> what is there after an interrupt, if it is not nothing.
_LEFT = {
    _COMMANDS["advise"][1]: "the same command continues",
    _COMMANDS["push"][1]: "the repository may have been created, and may have the files: push again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `python -m exporter`; by default those of this process.

    Returns:
        The exit status: 0 done, 1 verification failed or no advice, 2 wrong use or bad input, 130 interrupted.
    """
    parser, module, rest = command(sys.argv[1:] if arguments is None else arguments)
    return run(module, parser.parse_args(rest))


def run(module: str, options: argparse.Namespace) -> int:
    """Run a command whose options are parsed.

    Args:
        module: the module of the command.
        options: its options.

    Returns:
        The exit status, as `main`.
    """
    try:
        with terminable(), _rare_collections():
            # None is success; `advise` returns 1 where it chooses nothing.
            status: int | None = importlib.import_module(module).run(options)
    except ExportError as error:
        _print_message(f"error: {error}")
        return 1 if isinstance(error, VerificationError) else 2
    except ImportError as error:
        remedy = "install adapterdrop-onnx[export,adapters,cpu] or [export,peft,cpu]"
        _print_message(f"error: {import_failure(error, remedy)}")
        return 2
    except OSError as error:
        _print_message(f"error: {error}")
        return 2
    except KeyboardInterrupt as interrupt:  # with a text if the output was there already
        _print_message(f"interrupted: {str(interrupt) or _LEFT.get(module, 'nothing was written')}")
        return 130
    return status or 0


def command(arguments: Sequence[str]) -> tuple[CommandParser, str, list[str]]:
    """Find the command that a command line names.

    Returns:
        The parser of its options, the module that runs it, and the arguments for the parser.
    """
    if arguments and arguments[0] in _COMMANDS:
        make_parser, module = _COMMANDS[arguments[0]]
        return make_parser(), module, list(arguments[1:])
    make_parser, module = _EXPORT
    parser = make_parser()
    if arguments and not arguments[0].startswith("-"):  # an export has options only
        expected = f": expected {', '.join(_COMMANDS)} or the options of an export"
        parser.error(f"{arguments[0]!r} is not a command{nearest_command(arguments[0], _COMMANDS) or expected}")
    return parser, module, list(arguments)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector run less often: its visits to modules and graphs, which stay, took 6 % of an export."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 10, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _print_message(text: str) -> None:
    shown = "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in as_called(text))
    print_error(shown)
