"""The options of an export. They do not load torch, which --help and mistyped options do not need."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.cli.option_values import parse_drop, parse_output
from exporter.cli.shared_options import add_report, add_sources, add_tasks
from runtime.command_options import CommandParser, check_values

_EXPORT_DESCRIPTION = """\
Export all tasks of an adapter model into one ONNX graph with a shared trunk, verified against PyTorch.

Without --model, the bundled example is exported: eight adapters and a fusion of them on all-MiniLM-L6-v2; where only PEFT is
installed, its LoRA adapters for some of the same tasks.

Other commands; each lists its options with --help:
  python -m exporter add DIR
      add tasks to an exported folder
  python -m exporter task DIR
      make the file of one task, which running services add
  python -m exporter inspect DIR
      show what an exported folder contains, what it costs and what it saves
  python -m exporter advise
      measure which drops and fusion members to export, on labelled texts
  python -m exporter push DIR ID
      publish an exported folder on the Hugging Face hub, with a model card
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


def export_parser() -> CommandParser:
    """Return the parser of the options of an export."""
    parser = CommandParser("python -m exporter", _EXPORT_DESCRIPTION, _EXPORT_EPILOG)
    add_export_options(parser)
    return parser


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an export to a parser of any program."""
    check_values(parser)
    add_sources(parser)
    add_tasks(parser)
    parser.add_argument(
        "--drop",
        type=parse_drop,
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
        help="texts on which the attention of fusion members, and calibrated ranges in int8, are measured (.txt, .jsonl, .csv, "
        ".tsv), or scores of members (.json)",
    )
    parser.add_argument(
        "--output", type=parse_output, default=Path("onnx"), metavar="DIR", help="folder to write, new or empty; default onnx"
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
        help="texts, with or without labels, on which the graph is compared with PyTorch: FILE for all tasks, or TASK=FILE, "
        "which may be repeated",
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
    parser.add_argument(
        "--layout",
        default="flat",
        metavar="L",
        help="flat: all files in the folder itself; transformersjs: the graph of one task in onnx/, where the pipelines of "
        "transformers.js look for it; default flat",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set, 17 to 24; default 20")
    add_report(parser)
