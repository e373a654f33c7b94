"""Shapes and options of a run, and the parsers of all benchmark commands; this module does not import torch."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.command_options import CommandParser
from runtime.ort.cpu import cpu_limits

_DESCRIPTION = """\
Time all ways to run the same adapter tasks in interleaved rounds on this machine: PyTorch task by task, the Parallel block of
the adapters library (fp32, bf16, compiled), one ONNX file per task, and one ONNX graph for all tasks.

By default the model is a randomly initialized BERT, whose times equal those of a trained one; --quick uses the bundled example.

--device cuda times the same on an NVIDIA GPU, in fp32, tf32, fp16 and bf16, with IO binding and CUDA graphs. It needs
onnxruntime-gpu. --provider NAME adds our graph on any other execution provider that is installed, next to the same baselines.
"""
_EPILOG = """\
exit status: 0 done; 1 the outputs of an fp32 contender differ from PyTorch task by task; 2 invalid arguments or model, or the
device does not work
"""
DEVICES = ("cpu", "cuda")
_SHAPES = {"cpu": "1x32,1x128,4x128", "cuda": "1x32,1x128,8x128,32x128"}
# Options that do not change what is measured: folders of this machine, and how long a piece of a run may take.
_LOCAL = ("--output", "--folder", "--seconds")
_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, order=True)
class Shape:
    """A batch of texts: `batch` rows of `length` tokens."""

    batch: int
    length: int

    def __str__(self) -> str:
        """Return the shape as on the command line, such as 4x128."""
        return f"{self.batch}x{self.length}"


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        quick: measure the bundled example for a short time without torch.compile; `layers`, `hidden` and `tasks` do not apply.
        rounds: rounds per shape; None for as many as fit into the time of the run.
        shapes: shapes of the inputs.
        tasks: number of tasks.
        drop: number of lowest layers without adapters.
        layers: number of layers.
        hidden: hidden size.
        threads: threads within one operator, for both torch and ONNX Runtime.
        compile: include torch.compile.
        compile_shapes: the shapes at which torch.compile is measured, on a GPU; every shape takes a compilation.
        device: "cpu" or "cuda".
        providers: names of further execution providers of ONNX Runtime that run our graph.
        skip: keys of contenders to omit.
        output: folder for the results.
        seed: seed of weights, inputs and the order in a round.
        arguments: command-line arguments except --output, which is a local path.
    """

    quick: bool
    rounds: int | None
    shapes: tuple[Shape, ...]
    tasks: int
    drop: int
    layers: int
    hidden: int
    threads: int
    compile: bool
    compile_shapes: tuple[Shape, ...]
    device: str
    providers: tuple[str, ...]
    skip: tuple[str, ...]
    output: Path
    seed: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first part of the results' file names."""
        name = "bert-base" if (self.layers, self.hidden) == (12, 768) else f"bert-{self.layers}x{self.hidden}"
        parts = (
            "quick" if self.quick else name,
            *(() if self.device == "cpu" else (self.device,)),
            *(("with", *self.providers) if self.providers else ()),
        )
        return "-".join(re.sub(r"\W+", "-", part.lower()) for part in parts)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Parse a list of shapes such as "1x32,4x128", without duplicates.

    Raises:
        ArgumentTypeError: an item is not of the form batch x length.
    """
    found = [_SHAPE.fullmatch(part.strip()) for part in text.split(",")]
    if any(match is None for match in found):
        raise argparse.ArgumentTypeError(f"expected batch x length, such as 1x32,4x128, found {text!r}")
    return tuple(dict.fromkeys(Shape(int(match[1]), int(match[2])) for match in found if match is not None))


def whole(least: int) -> type[int]:
    """Return a parser of whole numbers of at least `least`, for argparse."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
        return int(text)

    return read  # type: ignore[return-value]  # argparse takes any callable


def cores() -> int:
    """Return the number of CPU cores that this process may use, by its affinity and the quota of its control group."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_limits().quota
    return bound if quota is None else max(1, min(bound, int(quota)))


def _parser() -> CommandParser:
    parser = CommandParser("python -m benchmarks", _DESCRIPTION, _EPILOG)
    parser.add_argument("--quick", action="store_true", help="the bundled example in about a minute, without torch.compile")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where the contenders run; default cpu")
    parser.add_argument(
        "--provider",
        dest="providers",
        action="append",
        default=[],
        metavar="NAME",
        help="also measure our graph on this execution provider, by any name that `python -m runtime --provider` takes, such "
        "as webgpu, tensorrt-rtx or coreml; may be repeated",
    )
    parser.add_argument(
        "--rounds",
        type=whole(1),
        help="rounds per shape; default: as many as fit into about ten minutes (cuda: 15 seconds per shape)",
        metavar="N",
    )
    parser.add_argument(
        "--shapes",
        type=parse_shapes,
        metavar="BxL,…",
        help="batch x tokens; default 1x32,1x128,4x128 (quick: 1x32,1x128; cuda: 1x32,1x128,8x128,32x128)",
    )
    parser.add_argument("--tasks", type=whole(2), help="number of tasks; default 8", metavar="N")
    parser.add_argument(
        "--drop", type=whole(0), help="layers without adapters; default 5 (quick: 3 of the example's 6)", metavar="N"
    )
    parser.add_argument("--layers", type=whole(1), help="layers; default 12", metavar="N")
    parser.add_argument("--hidden", type=whole(32), help="hidden size, a multiple of 32; default 768", metavar="N")
    parser.add_argument(
        "--threads", type=whole(1), help="threads of both torch and ONNX Runtime; default: all cores", metavar="N"
    )
    parser.add_argument("--no-compile", action="store_true", help="omit torch.compile")
    parser.add_argument(
        "--compile-shapes",
        type=parse_shapes,
        metavar="BxL,…",
        help="with --device cuda: the shapes at which torch.compile is measured; default 1x128,32x128",
    )
    parser.add_argument(
        "--skip",
        type=str,
        default="",
        metavar="KEY,…",
        help="contenders to omit, by their keys in the results, such as files,files-fp16",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="folder for the results; default benchmarks/results",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="seed of weights, inputs and the order in a round; default 0", metavar="N"
    )
    return parser


def _check_sizes(parser: CommandParser, hidden: int, layers: int, drops: Sequence[int]) -> None:
    if hidden % 32:
        parser.error(f"argument --hidden: expected a multiple of 32, found {hidden}: the size of an attention head")
    if wrong := [drop for drop in drops if not 0 <= drop <= layers]:
        parser.error(f"the model has {layers} layers: expected a drop from 0 to {layers}, found {wrong[0]}")


class _SizesParser(CommandParser):
    """Refuses sizes that no model has, before anything is exported, and adds the `command` for the results file."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line; invalid sizes end the program with one message and status 2."""
        options = super().parse_args(args, namespace)
        options.command = command_of(self.prog, sys.argv[1:] if args is None else args)
        _check_sizes(self, options.hidden, options.layers, getattr(options, "drops", [getattr(options, "drop", 0)]))
        return options


def random_bert_parser(module: str, description: str | None, shapes: str, rounds: int, layers: str = "layers") -> CommandParser:
    """Return the parser of a separate benchmark of a randomly initialized BERT, `python -m benchmarks.<module>`.

    Args:
        module: name of the module.
        description: text of --help.
        shapes: default of --shapes.
        rounds: default of --rounds.
        layers: help text of --layers.
    """
    parser = _SizesParser(f"python -m benchmarks.{module}", description)
    parser.add_argument(
        "--shapes", type=parse_shapes, default=parse_shapes(shapes), metavar="BxL,…", help=f"batch x tokens; default {shapes}"
    )
    parser.add_argument("--rounds", type=whole(1), default=rounds, metavar="N", help=f"rounds per shape; default {rounds}")
    parser.add_argument("--layers", type=whole(1), default=12, metavar="N", help=f"{layers}; default 12")
    parser.add_argument("--hidden", type=whole(32), default=768, metavar="N", help="hidden size, a multiple of 32; default 768")
    parser.add_argument(
        "--threads", type=whole(1), default=cores(), metavar="N", help="threads of the runs; default: all cores"
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="seed of weights, inputs and order; default 0")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="folder for the results; default benchmarks/results",
    )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device and --precision to the parser of a separate benchmark of our own graphs."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="provider that runs the graphs; default cpu")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="precision of all exports; default fp32; fp16 needs --device cuda, int8 the CPU",
    )


def target_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return `target` and `precision` of the exports; a precision that the device lacks ends the program with status 2."""
    if options.precision in (("fp16",) if options.device == "cpu" else ("int8",)):
        parser.error(f"--precision {options.precision}: not with --device {options.device}")
    if options.device == "cuda":
        return {"target": "cuda", "precision": options.precision}
    return {"target": "portable" if options.precision == "fp32" else "cpu", "precision": options.precision}


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; invalid arguments end the program with one message and status 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.quick and (own := [name for name in ("tasks", "layers", "hidden") if getattr(given, name) is not None]):
        parser.error(f"--quick measures the bundled example as it is: leave out --{own[0]}, or leave out --quick")
    if given.compile_shapes and given.device == "cpu":
        parser.error("--compile-shapes needs --device cuda; on the CPU, torch.compile is measured at every shape")
    default_shapes = "1x32,1x128" if given.quick else _SHAPES[given.device]
    options = Options(
        quick=given.quick,
        rounds=given.rounds,
        shapes=given.shapes or parse_shapes(default_shapes),
        tasks=given.tasks or 8,
        drop=(3 if given.quick else 5) if given.drop is None else given.drop,
        layers=given.layers or 12,
        hidden=given.hidden or 768,
        threads=given.threads or cores(),
        compile=not (given.quick or given.no_compile),
        compile_shapes=given.compile_shapes or parse_shapes("1x128,32x128"),
        device=given.device,
        providers=tuple(dict.fromkeys(given.providers)),
        skip=tuple(filter(None, given.skip.split(","))),
        output=given.output,
        seed=given.seed,
        arguments=_without_local(arguments),
    )
    _check_sizes(parser, options.hidden, options.layers, [] if options.quick else [options.drop])
    if options.threads > cores():
        parser.error(f"--threads must be at most {cores()}, the number of available cores; found {options.threads}")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder, but {str(options.output)!r} is a file")
    return options


def command_of(program: str, arguments: Sequence[str]) -> str:
    """Return the command of a run, for its results file, without folders of this machine."""
    return shlex.join((*program.split(), *_without_local(arguments)))


def _without_local(arguments: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in (*_LOCAL, "--texts"):
            kept.append(argument)
            continue
        if not equals:
            next(rest, None)  # its value
        kept += ["--texts", "DIR"] if name == "--texts" else []
    return tuple(kept)
