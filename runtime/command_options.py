"""Parsers of command lines, and of option settings such as `cuda.device=1`."""

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

from runtime.errors import InputError
from runtime.options import ConvSearch, Hint, Options
from runtime.program import as_called


@dataclass(frozen=True)
class _Kind:
    """Syntax of a value: a description for messages, a regular expression and a parser."""

    written: str
    pattern: str
    read: Callable[[str], Any]


def _bytes(text: str) -> int:
    return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0)


def _shape(text: str) -> tuple[int, int]:
    rows, tokens = text.split("x")
    return int(rows), int(tokens)


_WHOLE: Final = _Kind("a whole number", r"\d+", int)
_SWITCH: Final = _Kind("on or off", "on|off", "on".__eq__)
_BYTES: Final = _Kind("bytes, such as 800M or 4G", r"\d+[KMG]?", _bytes)
_SHAPE: Final = _Kind("batch x sequence, such as 8x128", r"\d+x\d+", _shape)
_SHAPES: Final = _Kind(
    "batch x sequence, such as 1x32,8x128", r"\d+x\d+(,\d+x\d+)*", lambda text: tuple(map(_shape, text.split(",")))
)
_NUMBER: Final = _Kind("a number, such as 0.01", r"\d+(\.\d+)?([eE]-?\d+)?", float)
_NAME: Final = _Kind("a name, such as CPU or GPU", ".+", str)


def _one_of(values: Sequence[str]) -> _Kind:
    return _Kind(f"one of {', '.join(values)}", "|".join(values), str)


# Field of Options -> syntax of its value; `cache` is missing because it has the separate flag --cache
SETTINGS: Final[Mapping[str, _Kind]] = {
    "threads": _WHOLE,
    "spin": _SWITCH,
    "memory_limit": _BYTES,
    "share_weights": _SWITCH,
    "probe_tolerance": _NUMBER,
    "compiled": _SWITCH,
    "cuda.device": _WHOLE,
    "cuda.memory_limit": _BYTES,
    "cuda.tf32": _SWITCH,
    "cuda.conv_search": _one_of(get_args(ConvSearch)),
    "cuda.graphs": _SHAPES,
    "tensorrt.best": _SHAPE,
    "tensorrt.largest": _SHAPE,
    "tensorrt.fp16": _SWITCH,
    "tensorrt.bf16": _SWITCH,
    "tensorrt.workspace": _BYTES,
    "openvino.device": _NAME,
    "openvino.precision": _one_of(get_args(Hint)),
    "openvino.kernels": _WHOLE,
}
# Fields of Options whose keys are those of ONNX Runtime: provider_options.KEY=VALUE
MAPPINGS: Final = ("provider_options", "session_config")
# Help of the file of texts
TEXT_FILE: Final = (
    "UTF-8 file, one text per line, a TAB between the texts of a pair; or .jsonl, .csv, .tsv or .parquet with a column text; "
    "- reads standard input"
)


def check_values(parser: argparse.ArgumentParser) -> None:
    """Let a parser refuse empty values, except of type str, and say which numbers it expects."""
    for kind, expected in ((int, "a whole number"), (float, "a number"), (Path, ""), (None, "")):
        parser.register("type", kind, partial(_value, kind or str, expected))


def _value(kind: Callable[[str], Any], expected: str, text: str) -> Any:
    if not text:  # often an unset variable of a shell; as a path, it would be the current folder
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {expected}, found {text!r}") from None


class CommandParser(argparse.ArgumentParser):
    """A parser that reports wrong use in one line with status 2, as all bad input is reported, and keeps the texts' layout."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        """Create a parser without options.

        Args:
            prog: the command, for the usage line.
            description: shown before the options.
            epilog: shown after the options.
        """
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=kind, allow_abbrev=False)
        check_values(self)

    def format_help(self) -> str:
        """Return the help, with the commands as the user calls them."""
        return as_called(super().format_help())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; an unknown option is an error that names the nearest one. Other unknown arguments are returned."""
        found, left = super().parse_known_args(args, namespace)
        if unknown := [each for each in left if each.startswith("--")]:
            known = [each for each in self._option_string_actions if each.startswith("--")]
            near = [(difflib.get_close_matches(each.partition("=")[0], known, 1) or [""])[0] for each in unknown]
            named = "".join(f"; the nearest of {one} is {other}" for one, other in zip(unknown, near, strict=True) if other)
            self.error(f"unrecognized arguments: {' '.join(left)}{named}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, as_called(f"error: {message}; see {self.prog} --help\n"))


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how texts are read and what is printed for them."""
    add = parser.add_argument
    add("--truncate", action="store_true", help="cut texts that are longer than the model's maximum")
    add(
        "--aggregate",
        metavar="STRATEGY",
        help="entities instead of words for tagging, as transformers' pipeline groups them: simple, first, max or average",
    )
    add(
        "--stride",
        type=int,
        metavar="N",
        help="with --aggregate: read texts that are longer than the model's maximum in windows that share N tokens",
    )
    add("--threshold", type=float, metavar="X", help="least probability of a label of multilabel tasks; default 0.5")
    add("--top-k", type=int, metavar="K", help="the K most probable labels of classification and multilabel tasks")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select tasks, and that add them from files."""
    parser.add_argument("--tasks", metavar="a,b", help="only these tasks, in this order; default: all")
    parser.add_argument(
        "--task",
        dest="added",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="add a task from a file of `python -m exporter task`, for a bundle with slots; may be repeated",
    )


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sessions that the commands of a bundle share: `threads`, and `settings` for `read_settings`."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads within one operator; default: one per physical core")
    parser.add_argument(
        "--option",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option that `python -m runtime --help` lists; may be repeated",
    )


def read_settings(settings: Sequence[str], options: Options) -> Options:
    """Apply settings to options.

    Args:
        settings: settings of the form NAME=VALUE; the last one wins if a name is repeated.
        options: options to start from.

    Returns:
        A copy of `options` with the new values.

    Raises:
        InputError: a setting is unknown or malformed (the message names all of them), or a value is out of range.
    """
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        group, _, field = name.partition(".")
        if group in MAPPINGS and field and equals:
            found.setdefault(group, {})[field] = value
        elif (kind := SETTINGS.get(name)) is None:
            mapped = [f"{each}.{field or 'KEY'}" for each in MAPPINGS]
            written = ", ".join((*SETTINGS, *(f"{each}.KEY" for each in MAPPINGS)))
            close = difflib.get_close_matches(name, (*SETTINGS, *mapped), 1)
            nearest = f"; the nearest is {close[0]}" if close and name else ""
            problems.append(f"expected NAME=VALUE with one of {written}, found {setting!r}{nearest}")
        elif not re.fullmatch(kind.pattern, value):
            problems.append(f"{name}: expected {kind.written}, found {value!r}")
        else:
            group, _, field = name.rpartition(".")
            found.setdefault(group, {})[field] = kind.read(value)
    if problems:
        raise InputError("--option: " + "; ".join(dict.fromkeys(problems)))
    top = found.pop("", {})
    top |= {name: {**getattr(options, name), **found.pop(name)} for name in MAPPINGS if name in found}
    return replace(options, **top, **{group: replace(getattr(options, group), **fields) for group, fields in found.items()})


def describe() -> str:
    """Return a line for each setting, with its syntax, for the help of a command."""
    lines = {name: kind.written for name, kind in SETTINGS.items()}
    lines |= {
        "provider_options.KEY": "an option of the provider named by --provider, as in ONNX Runtime's documentation",
        "session_config.KEY": "an entry of ONNX Runtime's session configuration",
    }
    width = max(map(len, lines))
    return "\n".join(f"  {name:<{width}}  {written}" for name, written in lines.items())
