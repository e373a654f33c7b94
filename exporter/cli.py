"""The command line: python -m exporter --drop 5."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from .report import Report

# Names arguments alone: importing torch takes seconds, and --help and a typing error should not.

_DESCRIPTION = """\
Export all tasks of an adapter model into one ONNX graph with a shared trunk, verified against PyTorch.

Without --model, the bundled example is exported: eight adapters on all-MiniLM-L6-v2.

A first argument that is a command does something else; python -m exporter COMMAND --help says more:
  add DIR       more tasks for an exported folder
  inspect DIR   what is in an exported folder, what it costs and what it saves, as text and as a picture
"""
# First argument -> the module whose main(arguments) reads what an export wrote.
_READERS = {"inspect": ".inspect.command"}
_EPILOG = """\
exit status: 0 done and verified; 1 verification failed, nothing written; 2 wrong use, unsupported model or bad input

examples:
  python -m exporter --drop 5
  python -m exporter --model my-model --tasks sst2,mnli --drop 3 --output onnx-sst2-mnli
  python -m exporter --model bert-base-uncased --adapter sst2=adapters/sst2 --adapter AdapterHub/bert-base-uncased-pf-mnli
  python -m exporter --model my-fusion --keep-fused 2 --calibration texts.jsonl
  python -m exporter add onnx --model bert-base-uncased --adapter adapters/rte   (see python -m exporter add --help)
"""
_ADD_DESCRIPTION = """\
Add tasks to a folder that was exported with --extendable, without tracing the model again, verified against PyTorch.

Each new task must have the structure of a task that is there: method, configuration, composition and type of head.
"""


# What runs a command's options, showing progress on the console if there is one.
Run: TypeAlias = "Callable[[argparse.Namespace, Console | None], Report]"


class Parser(argparse.ArgumentParser):
    """Answers wrong use with one line and status 2, as every other bad input is answered."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _drop(text: str) -> int | list[int] | dict[str, int]:
    if "=" not in text:
        numbers = [_layers(part) for part in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    drops: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"must be N, N,N or task=N,task=N, found {part.strip()!r}")
        if name.strip() in drops:
            raise argparse.ArgumentTypeError(f"names the task {name.strip()!r} twice")
        drops[name.strip()] = _layers(number)
    return drops


def _layers(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number of layers, found {text!r}") from None


def _evaluation(files: list[str]) -> str | dict[str, str] | None:
    """FILE once, or TASK=FILE for as many tasks."""
    if len(files) == 1 and "=" not in files[0]:
        return files[0]
    return {task.strip(): file for task, _, file in (each.partition("=") for each in files)} or None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m exporter",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_sources(parser)
    parser.add_argument(
        "--tasks", type=_names, metavar="A,B", help="adapters to export, each with a head of its name; all by default"
    )
    parser.add_argument(
        "--drop",
        type=_drop,
        default=0,
        metavar="N",
        help="take the adapters out of the lowest N layers; N,N,N for several variants over one weights file; "
        "task=N,task=N for a number per task; default 0",
    )
    parser.add_argument(
        "--keep-fused", type=int, metavar="K", help="keep the K most important members of each fusion in each layer"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="texts on which the members' attention is measured (.txt, .jsonl, .csv, .tsv), or scores (.json)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("onnx"), metavar="DIR", help="folder to write, new or empty; default onnx"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder where an export wrote it")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="P",
        help="fp32, fp16, bf16 (which OpenVINO and TensorRT compute in) or int8 (dynamic, per channel); default fp32",
    )
    parser.add_argument(
        "--target",
        default="portable",
        metavar="T",
        help="portable: standard ONNX operators only, for every provider; cpu, cuda: ONNX Runtime's fused operators; openvino, "
        "tensorrt; default portable",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="[TASK=]FILE",
        help="texts, with labels or without, on which the graph is compared with PyTorch; may be repeated",
    )
    parser.add_argument(
        "--max-disagreement",
        type=float,
        metavar="X",
        help="refuse a graph that answers otherwise than PyTorch on more than this share of a task's evaluation texts, 0 to 1",
    )
    parser.add_argument(
        "--routed",
        action="store_true",
        help="also write a graph whose rows choose their text and their task: mixed batches, and some tasks for some texts",
    )
    parser.add_argument(
        "--extendable", action="store_true", help="also keep what `python -m exporter add` needs to add tasks to the folder"
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set; default 20")
    _add_common(parser)
    return parser


def _add_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m exporter add",
        description=_ADD_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder; replaced as a whole or not at all")
    _add_sources(parser)
    _add_common(parser)
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="SOURCE", help="a folder from model.save_pretrained, or a hub id")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]SOURCE",
        help="a folder or hub id of adapters to load into the model: save_adapter, save_all_adapters or PEFT; may be repeated",
    )
    parser.add_argument(
        "--fusion",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a folder or hub id of save_adapter_fusion to load into the model; may be repeated",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--atol", type=float, metavar="X", help="allowed difference relative to max(1, max |logit|); default 1e-4 in fp32"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no report")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object on standard output")


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
        return int(importlib.import_module(_READERS[name], __package__).main(arguments))
    except ModuleNotFoundError as error:
        print(f"error: {error}; to look into a folder, install adapterdrop-onnx[export,cpu]", file=sys.stderr)
        return 2


def command(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, Run, list[str]]:
    """The parser of a command line, what runs its options, and the arguments that the parser takes."""
    if arguments and arguments[0] in _COMMANDS:
        make, run = _COMMANDS[arguments[0]]
        return make(), run, list(arguments[1:])
    return _parser(), _run_export, list(arguments)


def _run_export(options: argparse.Namespace, console: Console | None) -> Report:
    from ._export import export

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
    from ._add import add

    return add(options.folder, options.adapter, options.model, options.fusion, options.atol, console)


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Run]] = {"add": (_add_parser, _run_add)}


def _answer(options: argparse.Namespace, run: Run) -> int:
    from rich.console import Console

    from .errors import ExportError, VerificationError
    from .report import print_report

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
