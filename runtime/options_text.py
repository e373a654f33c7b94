"""Parsers of command lines, and of option settings such as `cuda.device=1`."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, get_args

from runtime.errors import InputError
from runtime.options import ConvSearch, Hint, Options


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
_NAME: Final = _Kind("a name, such as CPU or GPU", ".+", str)


def _one_of(values: Sequence[str]) -> _Kind:
    return _Kind(f"one of {', '.join(values)}", "|".join(values), str)


# Field of Options -> syntax of its value; `cache` is missing because it has the separate flag --cache
SETTINGS: Final[Mapping[str, _Kind]] = {
    "threads": _WHOLE,
    "spin": _SWITCH,
    "memory_limit": _BYTES,
    "share_weights": _SWITCH,
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


class CommandParser(argparse.ArgumentParser):
    """A parser that reports wrong use in one line with status 2, as all bad input is reported."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


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
    add("--threshold", type=float, metavar="X", help="least probability of a label of multilabel tasks; default: 0.5")
    add("--top-k", type=int, metavar="K", help="the K most probable labels of classification and multilabel tasks")


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
        name, _, value = setting.partition("=")
        if (kind := SETTINGS.get(name)) is None:
            problems.append(f"expected NAME=VALUE with one of {', '.join(SETTINGS)}, found {setting!r}")
        elif not re.fullmatch(kind.pattern, value):
            problems.append(f"{name}: expected {kind.written}, found {value!r}")
        else:
            group, _, field = name.rpartition(".")
            found.setdefault(group, {})[field] = kind.read(value)
    if problems:
        raise InputError("--option: " + "; ".join(dict.fromkeys(problems)))
    top = found.pop("", {})
    return replace(options, **top, **{group: replace(getattr(options, group), **fields) for group, fields in found.items()})


def describe() -> str:
    """Return a line for each setting, with its syntax, for the help of a command."""
    width = max(map(len, SETTINGS))
    return "\n".join(f"  {name:<{width}}  {kind.written}" for name, kind in SETTINGS.items())
