"""The options of each command. It imports only the parser, so that --help and mistyped options do not load torch."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from exporter.cli.parser import Parser
from exporter.errors import ExportError

_EXPORT_DESCRIPTION = """\
Export all tasks of an adapter model into one ONNX graph with a shared trunk, verified against PyTorch.

Without --model, the bundled example is exported: eight adapters and a fusion of them on all-MiniLM-L6-v2; where only PEFT is
installed, its LoRA adapters for some of the same tasks.

Other commands; python -m exporter COMMAND --help lists their options:
  add DIR       add tasks to an exported folder
  task DIR      make the file of one task, which running services add
  inspect DIR   show what an exported folder contains, what it costs and what it saves
  advise        measure which drops and fusion members to export, on labelled texts
  push DIR ID   publish an exported folder on the Hugging Face hub, with a model card
"""
_EXPORT_EPILOG = """\
exit status: 0 done and verified; 1 verification failed, nothing written; 2 wrong use, unsupported model or bad input

examples:
  python -m exporter --drop 5
  python -m exporter --model my-model --tasks sst2,mnli --drop 3 --output onnx-sst2-mnli
  python -m exporter --model bert-base-uncased --adapter sst2=adapters/sst2 --adapter AdapterHub/bert-base-uncased-pf-mnli
  python -m exporter --model my-fusion --keep-fused 2 --calibration texts.jsonl
  python -m exporter add onnx --model bert-base-uncased --adapter adapters/rte
"""
_ADD_DESCRIPTION = """\
Add tasks to a folder that was exported with --extendable, without tracing the model again, verified against PyTorch.

Each new task must have the structure of a task in the folder: adapter method, configuration, composition and head type.
"""
_ADD_EPILOG = """\
exit status: 0 done and verified; 1 verification failed, the folder is unchanged; 2 wrong use, unsupported model or bad input

examples:
  python -m exporter add onnx --model bert-base-uncased --adapter adapters/rte
"""
_TASK_DESCRIPTION = """\
Make the file of one task for a folder that was exported with --slots, verified against PyTorch in a slot. Services with that
folder add the file while they run: predictor.add_task(NAME, FILE), or python -m runtime DIR --task NAME=FILE.

The task must have the structure of a task in the folder, and at most as many labels as the one with the most.
"""
_TASK_EPILOG = """\
exit status: 0 done and verified; 1 verification failed, 2 wrong use, unsupported model or bad input; nothing is written then

examples:
  python -m exporter task onnx --model bert-base-uncased --adapter adapters/rte --output rte.safetensors
"""
_INSPECT_DESCRIPTION = """\
Show what an exported folder contains: trunk and branches layer by layer, the operations and weights of each task, the operators
that take them, what each pass of the compiler removed, and what one graph for all tasks saves.

The graph is not run: operations are counted from it, at the shape given by --shape.

--why runs the passes of the compiler once more over a copy of the written graph in memory and prints the patterns that they do
not apply, with the reasons. A reason that a later pass has removed from the graph, or that existed only before the tasks became
one batch, cannot be shown.
"""
_INSPECT_EPILOG = """\
exit status: 0 done; 2 wrong use, a folder that was not written by an export, or a damaged one

examples:
  python -m exporter inspect onnx
  python -m exporter inspect onnx --shape 8x32 --drop 3
  python -m exporter inspect onnx --picture onnx.svg
  python -m exporter inspect onnx --why
  python -m exporter inspect onnx --why QuantizeRows --drop 3
"""
_PUSH_DESCRIPTION = """\
Publish an exported folder on the Hugging Face hub, in one commit and with a model card made from its manifest. Only the
files that the manifest lists are published. The token is that of `hf auth login`, or HF_TOKEN.
"""
_PUSH_EPILOG = """\
exit status: 0 done; 2 wrong use, a damaged folder, or a hub that cannot be reached or refuses

examples:
  python -m exporter push onnx my-organisation/my-tasks --private
  python -m exporter push onnx my-organisation/my-tasks --base-model bert-base-uncased --create-pr
"""


def export_parser() -> Parser:
    """Return the parser of the options of an export."""
    parser = Parser("python -m exporter", _EXPORT_DESCRIPTION, _EXPORT_EPILOG)
    add_export_options(parser)
    return parser


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an export to a parser of any program."""
    add_sources(parser)
    add_tasks(parser)
    parser.add_argument(
        "--drop",
        type=_drop,
        default=0,
        metavar="N",
        help="remove the adapters of the lowest N layers; N,N,N for several variants that share one weights file; "
        "task=N,task=N for a number per task; default 0",
    )
    parser.add_argument(
        "--keep-fused", type=int, metavar="K", help="keep the K most important members of each fusion in each layer"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="texts on which the attention of fusion members is measured (.txt, .jsonl, .csv, .tsv), or scores (.json)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("onnx"), metavar="DIR", help="folder to write, new or empty; default onnx"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if an export wrote it")
    parser.add_argument(
        "--no-tokenizer", action="store_true", help="write no tokenizer: the graph is run on token ids, not on texts"
    )
    parser.add_argument(
        "--with-tokenizer",
        action="store_true",
        help="also write text.onnx, the graph with the tokenizer in front of it, from texts to the outputs of all tasks; it "
        "needs onnxruntime-extensions where it is written and where it is run",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="P",
        help="fp32, fp16, bf16 (computed by OpenVINO and TensorRT) or int8; default fp32",
    )
    parser.add_argument(
        "--int8-ranges",
        metavar="R",
        help="ranges of activations in int8: row (one for each token; results do not depend on the other texts of the batch), "
        "tensor (one for the batch: faster, but predictions change with other texts and padding) or calibrated (measured on "
        "the texts of --calibration); default row, for openvino calibrated",
    )
    parser.add_argument(
        "--target",
        default="portable",
        metavar="T",
        help="portable: standard ONNX operators, for every execution provider; cpu, cuda: with ONNX Runtime's fused operators; "
        "openvino; tensorrt; default portable",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="[TASK=]FILE",
        help="texts, with or without labels, on which the graph is compared with PyTorch; may be repeated",
    )
    parser.add_argument(
        "--max-disagreement",
        type=float,
        metavar="X",
        help="refuse a graph whose predictions differ from PyTorch's on more than this share of a task's evaluation texts, "
        "0 to 1",
    )
    parser.add_argument(
        "--routed",
        action="store_true",
        help="also write a graph in which each row selects an input row and a task: for batches of different tasks, and for a "
        "few tasks per text",
    )
    parser.add_argument(
        "--extendable", action="store_true", help="also store what `python -m exporter add` needs to add tasks to the folder"
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="also write each graph in two, the trunk and the branches, so that the states of the trunk can be kept: for a "
        "cache, for new tasks over known texts, and for cascades of drops",
    )
    parser.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="also write a graph that takes the weights of its tasks from N slots of each structure, so that services can add "
        "tasks while they run (`python -m exporter task`); implies --routed and --extendable",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set; default 20")
    _add_report(parser)


def add_parser() -> Parser:
    """Return the parser of the options of `add`."""
    parser = Parser("python -m exporter add", _ADD_DESCRIPTION, _ADD_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder; replaced as a whole or not at all")
    add_sources(parser)
    _add_report(parser)
    return parser


def task_parser() -> Parser:
    """Return the parser of the options of `task`."""
    parser = Parser("python -m exporter task", _TASK_DESCRIPTION, _TASK_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder, which is only read")
    add_sources(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the file to write; an existing file is replaced as a whole"
    )
    parser.add_argument(
        "--drop",
        type=int,
        metavar="N",
        help="drop of the task, if those of the folder have different ones; default: the lowest",
    )
    _add_report(parser)
    return parser


def inspect_parser() -> Parser:
    """Return the parser of the options of `inspect`."""
    parser = Parser("python -m exporter inspect", _INSPECT_DESCRIPTION, _INSPECT_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder written by an export")
    parser.add_argument(
        "--shape",
        type=parse_shape,
        metavar="BxL",
        help="batch x length of the inputs; default 1x128; for images only the batch",
    )
    parser.add_argument("--drop", type=int, metavar="N", help="variant to show in detail; default: the first in the folder")
    parser.add_argument("--routed", action="store_true", help="show the routed graph, in which each row selects its task")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the graph into an .svg file, or a .png file (needs matplotlib)"
    )
    parser.add_argument(
        "--why",
        nargs="?",
        const="",
        metavar="TENSOR|PASS",
        help="show which patterns the compiler did not apply in the graph, and why: all, or those of a pass or a tensor",
    )
    parser.add_argument("--json", action="store_true", help="print all graphs as one JSON object on standard output")
    return parser


def push_parser() -> Parser:
    """Return the parser of the options of `push`."""
    parser = Parser("python -m exporter push", _PUSH_DESCRIPTION, _PUSH_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder written by an export")
    parser.add_argument("repository", metavar="ID", help="organisation/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository; refused for a public one")
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead of a commit on the default branch"
    )
    parser.add_argument(
        "--base-model", default="", metavar="ID", help="hub id of the model that the adapters were trained on, for the card"
    )
    parser.add_argument("--json", action="store_true", help="print address, commit and files as one JSON object")
    return parser


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model and its adapters."""
    parser.add_argument(
        "--model",
        metavar="SOURCE",
        help="a folder written by model.save_pretrained, or a hub id; ID@REVISION; SOURCE:SUBFOLDER",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]SOURCE",
        help="adapters to load into the model: a folder or hub id written by save_adapter, save_all_adapters or PEFT, or "
        "SOURCE:SUBFOLDER; NAME=SOURCE of a fine-tune of the model; NAME=base for the model's own head; may be repeated",
    )
    parser.add_argument(
        "--fusion",
        action="append",
        default=[],
        metavar="SOURCE",
        help="fusion layers to load into the model: a folder or hub id written by save_adapter_fusion; may be repeated",
    )
    parser.add_argument(
        "--pooling",
        action="append",
        default=[],
        type=_pooling,
        metavar="NAME=POOLING",
        help="give embeddings for a PEFT adapter without a head: cls, mean, max, weightedmean, mean_sqrt_len_tokens, "
        "lasttoken, or several as cls+mean; default: that of its sentence-transformers folder, else hidden states; repeatable",
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add the options that name heads and tasks."""
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        type=_head,
        metavar="NAME=FILE",
        help="a linear classifier of the model's embeddings: coefficients of scikit-learn's LogisticRegression (.npz, "
        ".safetensors); the pooling is that of a sentence-transformers or SetFit folder, or --pooling NAME=…; may be repeated",
    )
    parser.add_argument(
        "--tasks",
        type=_tasks,
        metavar="A,B",
        help="adapters to export, each with a head of the same name, or HEAD=ADAPTER; names with a comma in double "
        "quotes; default: all",
    )


def pooling_of(given: Sequence[str]) -> dict[str, str]:
    """Return adapter -> pooling of the option --pooling.

    Raises:
        ExportError: an adapter is named twice.
    """
    return _pairs(given, "--pooling names the adapter")


def heads_of(given: Sequence[str]) -> dict[str, str]:
    """Return task -> file of the option --head.

    Raises:
        ExportError: a task is named twice.
    """
    return _pairs(given, "--head names the task")


def _pairs(given: Sequence[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name in found:
            raise ExportError(f"{what} {name!r} twice")
        found[name] = value
    return found


def _head(text: str) -> str:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, for example topics=topics.npz, found {text!r}")
    return text


def _pooling(text: str) -> str:
    name, equals, pooling = (part.strip() for part in text.partition("="))
    if not (name and equals and pooling):
        raise argparse.ArgumentTypeError(f"must be NAME=POOLING, for example topics=mean, found {text!r}")
    return f"{name}={pooling}"


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--atol", type=float, metavar="X", help="allowed difference relative to max(1, max |logit|); default 1e-4 in fp32"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print neither progress nor report")
    amount.add_argument(
        "--verbose", action="store_true", help="print all rows of each table, and what each pass of the compiler changed"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on standard output")


def parse_shape(text: str) -> tuple[int, ...]:
    """Parse BATCHxLENGTH; for images BATCH."""
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be BATCHxLENGTH, for example 1x128, found {text!r}") from None


def _drop(text: str) -> int | list[int] | dict[str, int]:
    if "=" not in text:
        numbers = [_layers(part) for part in _fields(text)]
        return numbers if len(numbers) > 1 else numbers[0]
    drops: dict[str, int] = {}
    for part in _fields(text):
        name, equals, number = part.rpartition("=")
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"must be N, N,N or task=N,task=N, found {part.strip()!r}")
        if name.strip() in drops:
            raise argparse.ArgumentTypeError(f"names the task {name.strip()!r} twice")
        drops[name.strip()] = _layers(number)
    return drops


def _fields(text: str) -> list[str]:
    """Split at commas, except in double quotes: a fusion is called after its members, such as "a,b"."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True)) or [""]
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"must have double quotes around whole names only ({error}), found {text!r}") from None


def _layers(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number of layers, found {text!r}") from None


def _tasks(text: str) -> list[str] | dict[str, str]:
    """Parse A,B to a list; with HEAD=ADAPTER in it, a mapping from the names of heads, and so of tasks, to adapters."""
    parts = [part.strip() for part in _fields(text) if part.strip()]
    if not any("=" in part for part in parts):
        return parts
    tasks: dict[str, str] = {}
    for part in parts:
        head, equals, adapter = (each.strip() for each in part.partition("="))
        if not head or (equals and not adapter):
            raise argparse.ArgumentTypeError(f"must be ADAPTER or HEAD=ADAPTER, found {part!r}")
        if head in tasks:
            raise argparse.ArgumentTypeError(f"names the task {head!r} twice")
        tasks[head] = adapter or head
    return tasks
