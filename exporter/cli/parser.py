"""What the command lines understand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

# Names arguments alone: importing torch takes seconds, and --help and a typing error should not.

_DESCRIPTION = """\
Export all tasks of an adapter model into one ONNX graph with a shared trunk, verified against PyTorch.

Without --model, the bundled example is exported: eight adapters on all-MiniLM-L6-v2.

A first argument that is a command does something else; python -m exporter COMMAND --help says more:
  add DIR       more tasks for an exported folder
  inspect DIR   what is in an exported folder, what it costs and what it saves, as text and as a picture
"""
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


class Parser(argparse.ArgumentParser):
    """Answers wrong use with one line and status 2, as every other bad input is answered; shows texts as written."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=kind, allow_abbrev=False)

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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def export_parser() -> Parser:
    """Of an export."""
    parser = Parser("python -m exporter", _DESCRIPTION, _EPILOG)
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


def add_parser() -> Parser:
    """Of more tasks for an exported folder."""
    parser = Parser("python -m exporter add", _ADD_DESCRIPTION)
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
