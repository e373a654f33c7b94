"""The options of the commands of an exported folder. They do not load torch, which --help and mistyped options do not need."""

from __future__ import annotations

from pathlib import Path

from exporter.cli.option_values import parse_layers, parse_shape
from exporter.cli.shared_options import add_report, add_sources, add_tasks
from runtime.command_options import CommandParser

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
exit status: 0 done and verified; 1 verification failed, nothing written; 2 wrong use, unsupported model or bad input

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


def add_parser() -> CommandParser:
    """Return the parser of the options of `add`."""
    parser = CommandParser("python -m exporter add", _ADD_DESCRIPTION, _ADD_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder; replaced as a whole or not at all")
    add_sources(parser)
    add_tasks(parser, "adapters to add", "all that the folder does not have")
    add_report(parser)
    return parser


def task_parser() -> CommandParser:
    """Return the parser of the options of `task`."""
    parser = CommandParser("python -m exporter task", _TASK_DESCRIPTION, _TASK_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the exported folder, which is only read")
    add_sources(parser)
    add_tasks(parser, "the adapter", "the one that the folder does not have")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the file to write; an earlier task file is replaced as a whole",
    )
    parser.add_argument(
        "--drop",
        type=parse_layers,
        metavar="N",
        help="drop of the task, if those of the folder have different ones; default: the lowest",
    )
    add_report(parser)
    return parser


def inspect_parser() -> CommandParser:
    """Return the parser of the options of `inspect`."""
    parser = CommandParser("python -m exporter inspect", _INSPECT_DESCRIPTION, _INSPECT_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder written by an export")
    parser.add_argument(
        "--shape",
        type=parse_shape,
        metavar="BxL",
        help="batch x length of the inputs; default 1x128; for images only the batch",
    )
    parser.add_argument(
        "--drop", type=parse_layers, metavar="N", help="variant to show in detail; default: the first in the folder"
    )
    parser.add_argument("--routed", action="store_true", help="show the routed graph, in which each row selects its task")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the graph into an .svg file, or a .png file (needs matplotlib)"
    )
    parser.add_argument(
        "--why",
        nargs="?",
        type=str,
        const="",
        metavar="TENSOR|PASS",
        help="show which patterns the compiler did not apply in the graph, and why: all, or those of a pass or a tensor",
    )
    parser.add_argument("--json", action="store_true", help="print all graphs as one JSON object on standard output")
    return parser


def push_parser() -> CommandParser:
    """Return the parser of the options of `push`."""
    parser = CommandParser("python -m exporter push", _PUSH_DESCRIPTION, _PUSH_EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder written by an export")
    parser.add_argument("repository", metavar="ID", help="organisation/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository; refused for a public one")
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead of a commit on the default branch"
    )
    parser.add_argument(
        "--base-model",
        type=str,
        default="",
        metavar="ID",
        help="hub id of the model that the adapters were trained on, for the card",
    )
    parser.add_argument("--json", action="store_true", help="print address, commit and files as one JSON object")
    return parser
