"""Parts that all command lines share: how the command that runs is called, missing packages, termination, interrupts."""

import contextlib
import difflib
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from types import TracebackType
from typing import Final, NoReturn

from runtime.standard_output import print_error

NAME: Final = "adapterdrop"
# Remedy for the commands of the runtime
INSTALL: Final = "pip install 'adapterdrop-onnx[cpu]' or 'adapterdrop-onnx[gpu]'"
# What the texts of the parsers say -> the same for the console script; the first that matches counts.
_AS_SCRIPT: Final = (
    (re.compile(r"python -m runtime (\w+) encode\b"), rf"{NAME} encode \1"),
    (re.compile(r"python -m runtime (compile|devices|triton)\b"), rf"{NAME} \1"),
    (re.compile(r"python -m runtime\b"), rf"{NAME} run"),
    (re.compile(r"python -m exporter (add|advise|inspect|push|task)\b"), rf"{NAME} \1"),
    (re.compile(r"python -m exporter\b"), rf"{NAME} export"),
)
# Arguments of Python that are options of the same name
_OPTIONS: Final = "aggregate|cache|drop|precision|provider|stride|tasks|threads|threshold|top_k|truncate|window"
_GIVEN: Final = re.compile(rf"(?<![^\s(])({_OPTIONS})=(?:True|'?(\w+)'?)(?![\w./\\])")
_ABOUT: Final = re.compile(r"(^|; |expected )(options(?:\.|: ))?([a-z_]+(?:\.\w+)?)(?=: (?:ex|cannot|they|this)| as well)")


def as_called(text: str) -> str:
    """Return a text of help or of an error with the commands as the user calls them.

    argparse reads sys.argv[0] for its usage line too.
    """
    # adapterdrop.exe on Windows
    if PurePath(sys.argv[0] if sys.argv else "").stem != NAME:
        return text
    for pattern, script in _AS_SCRIPT:
        text = pattern.sub(script, text)
    return text


def nearest_command(name: str, commands: Iterable[str]) -> str:
    """Return the end of a message about an unknown command, with the nearest one; empty if none resembles it."""
    close = difflib.get_close_matches(name.lower(), commands, 1, 0.75)
    return f": the nearest command is {close[0]}" if close else ""


def as_options(text: str) -> str:
    """Return the message of an error that names arguments of Python with the options of the command line instead."""
    if text.startswith("-"):  # it is about an option
        return text
    text = re.sub(r", (\w+) or None\b", r" or \1", text)
    text = re.sub(r",? or None\b( to [a-z ]+)?", "", text)
    own = text.startswith(("options:", "options."))

    def given(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        return f"no --{name}" if value in ("False", "None") else f"--{name} {value or ''}".rstrip()

    def about(found: re.Match[str]) -> str:
        start, _, name = found.groups()
        if start == "; " and not own:
            return found[0]
        if re.fullmatch(_OPTIONS, name):
            return f"{start}--{name.replace('_', '-')}"
        return f"{start}--option {name}" if own else found[0]

    return _ABOUT.sub(about, _GIVEN.sub(given, text))


def import_failure(error: ImportError, remedy: str) -> str:
    """Return the message for a package that is missing or incomplete, in one line.

    Args:
        error: the error of the import.
        remedy: what to install; omitted for ONNX Runtime, whose message (`runtime.import_ort`) contains it.
    """
    return " ".join(str(error).split()) + ("" if error.name == "onnxruntime" else f"; {remedy}")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt: what is terminated keeps or removes its files like what is interrupted."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def shorten_interrupts() -> None:
    """Let an interrupt that no command handles, such as one while packages are imported, print a line, no traceback."""
    sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):  # Python then ends as by the signal, for which shells have the status 130
        print_error("interrupted")
    else:
        sys.__excepthook__(kind, error, trace)
