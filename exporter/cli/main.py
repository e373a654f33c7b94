"""The command line: python -m exporter --drop 5."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from exporter.cli.parser import Parser, add_parser, export_parser

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from exporter.report import Report

# First argument -> the module whose main(arguments) reads what an export wrote.
_READERS = {"inspect": "exporter.cli.inspect"}
# What runs a command's options, showing progress on the console if there is one.
Run: TypeAlias = "Callable[[argparse.Namespace, Console | None], Report]"


def _raise_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _READERS:
        return _run_reader(arguments[0], arguments[1:])
    parser, run, rest = command(arguments)
    options = parser.parse_args(rest)
    # A terminated export cleans up like an interrupted one.
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        return _answer(options, run)
    except ModuleNotFoundError as error:
        print(f"error: {error}; to export, install adapterdrop-onnx[export,cpu]", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_reader(name: str, arguments: Sequence[str]) -> int:
    try:
        return int(importlib.import_module(_READERS[name]).main(arguments))
    except ModuleNotFoundError as error:
        print(f"error: {error}; to look into a folder, install adapterdrop-onnx[export,cpu]", file=sys.stderr)
        return 2


def command(arguments: Sequence[str]) -> tuple[Parser, Run, list[str]]:
    """The parser of a command line, what runs its options, and the arguments that the parser takes."""
    if arguments and arguments[0] in _COMMANDS:
        make, run = _COMMANDS[arguments[0]]
        return make(), run, list(arguments[1:])
    return export_parser(), _run_export, list(arguments)


def _evaluation(files: list[str]) -> str | dict[str, str] | None:
    """FILE once, or TASK=FILE for as many tasks."""
    if len(files) == 1 and "=" not in files[0]:
        return files[0]
    return {task.strip(): file for task, _, file in (each.partition("=") for each in files)} or None


def _run_export(options: argparse.Namespace, console: Console | None) -> Report:
    from exporter.export_tasks import export

    return export(
        options.model,
        tasks=options.tasks,
        drop=options.drop,
        output=options.output,
        keep_fused=options.keep_fused,
        calibration=options.calibration,
        precision=options.precision,
        target=options.target,
        routed=options.routed,
        extendable=options.extendable,
        opset=options.opset,
        atol=options.atol,
        overwrite=options.overwrite,
        evaluation=_evaluation(options.evaluation),
        max_disagreement=options.max_disagreement,
        adapters=options.adapter,
        fusions=options.fusion,
        console=console,
    )


def _run_add(options: argparse.Namespace, console: Console | None) -> Report:
    from exporter.add_tasks import add

    return add(options.folder, options.adapter, options.model, options.fusion, options.atol, console)


_COMMANDS: dict[str, tuple[Callable[[], Parser], Run]] = {"add": (add_parser, _run_add)}


def _answer(options: argparse.Namespace, run: Run) -> int:
    from rich.console import Console

    from exporter.errors import ExportError, VerificationError
    from exporter.report import print_report

    try:
        report = run(options, None if options.quiet else Console(file=sys.stderr))
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, VerificationError) else 2
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    elif not options.quiet:
        print_report(report, Console())
    return 0
