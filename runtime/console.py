"""The console script `adapterdrop`: each subcommand is that of a program of this project, with the same options."""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.errors import InputError
from runtime.program import INSTALL, NAME, import_failure, nearest_command, shorten_interrupts
from runtime.standard_output import failed, flushed, print_text

_EXPORT: Final = "pip install 'adapterdrop-onnx[export,adapters,cpu]' or 'adapterdrop-onnx[export,peft,cpu]'"
_RUN: Final = "runtime.command_line"
_CHECKOUT: Final = "run it in a checkout of the repository, with 'adapterdrop-onnx[export,adapters,cpu,benchmark]' installed"


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: what the user types.
        purpose: one line for --help.
        module: module with a function `main(arguments)` that returns the exit status.
        arguments: what precedes the user's arguments there.
        install: what to do if the module is missing.
        folder_first: the user's first argument, a folder, precedes `arguments`.
    """

    name: str
    purpose: str
    module: str
    arguments: tuple[str, ...] = ()
    install: str = _EXPORT
    folder_first: bool = False


# A command whose module is a part of a program that is there, but which this version of it lacks, is not listed.
COMMANDS: Final = (
    Command("export", "export the tasks of an adapter model into one verified ONNX graph", "exporter.cli.main"),
    Command("add", "add tasks to an exported folder without tracing the model again", "exporter.cli.main", ("add",)),
    Command("task", "make the file of one task, which running services add", "exporter.cli.main", ("task",)),
    Command("push", "publish an exported folder on a hub, with a model card", "exporter.cli.main", ("push",)),
    Command("inspect", "show what an exported folder contains, costs and saves", "exporter.cli.main", ("inspect",)),
    Command("advise", "measure which drops and fusion members to export", "exporter.cli.main", ("advise",)),
    Command("run", "run an exported folder on texts", _RUN, install=INSTALL),
    Command("encode", "compute the trunk once per text (exports with --split)", _RUN, ("encode",), INSTALL, folder_first=True),
    Command("devices", "list the execution providers and the devices that each sees", _RUN, ("devices",), INSTALL),
    Command("compile", "build the graphs of an exported folder for a provider ahead of time", _RUN, ("compile",), INSTALL),
    Command("triton", "write an exported folder as a model repository of Triton", _RUN, ("triton",), INSTALL),
    Command("bench", "measure against PyTorch on this machine", "benchmarks.cli", install=_CHECKOUT),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console script.

    Args:
        arguments: those after `adapterdrop`; by default those of this process.

    Returns:
        The exit status: that of the subcommand; 2 for an unknown one, or one that is not installed.
    """
    if arguments is None:
        shorten_interrupts()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        return flushed(lambda: _printed(_help(), 0 if given else 2))
    if given[0] == "--version":
        return flushed(lambda: _printed(f"{NAME} {importlib.metadata.version('adapterdrop-onnx')}", 0))
    command = next((each for each in COMMANDS if each.name == given[0]), None)
    if command is None:
        names = [each.name for each in COMMANDS]
        expected = f": expected {', '.join(names)}"
        return failed(f"{given[0]!r} is not a command{nearest_command(given[0], names) or expected}; see {NAME} --help")
    if _is_missing(command.module):
        return failed(f"{NAME} {command.name} is not installed here: {command.install}")
    try:
        run: Callable[[Sequence[str]], int] = importlib.import_module(command.module).main
    except ImportError as error:
        return failed(f"{NAME} {command.name}: {import_failure(error, command.install)}")
    rest = given[1:]
    folder: list[str] = []
    if command.folder_first:  # without one, DIR stands for it in the message of what is missing, and in --help
        folder, rest = (rest[:1], rest[1:]) if rest and not rest[0].startswith("-") else (["DIR"], rest)
    return flushed(lambda: run([*folder, *command.arguments, *rest]))


def _help() -> str:
    width = max(len(each.name) for each in COMMANDS)
    lines = [f"  {each.name:<{width}}  {each.purpose}" for each in COMMANDS]
    return "\n".join(
        [
            f"usage: {NAME} COMMAND …",
            "",
            "Many adapter tasks, one transformer, one ONNX graph.",
            "",
            *lines,
            "",
            f"{NAME} COMMAND --help lists the options of a command, {NAME} --version the version.",
        ]
    )


def _printed(text: str, status: int) -> int:
    try:
        print_text(text)
    except InputError as error:
        return failed(str(error))
    return status


def _is_missing(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is None
