"""The options of `advise`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.cli.option_values import parse_layers, parse_output, parse_shape
from exporter.cli.shared_options import add_sources, add_tasks
from runtime.command_options import CommandParser

_DESCRIPTION = """\
Measure which drop each task can take, on labelled texts, and print the command that exports the best combination.

All drops are exported once. The metric of every task at every drop is measured with the exported graphs, with an interval of
95 % (paired bootstrap against drop 0). Times of some combinations are measured, those of all others predicted. Drops, and the
members that fusions keep, are then chosen together: the layers below the highest drop are computed once for all tasks that
reach them, and tasks with equal drops are one batch.

Without --latency, the fastest combination is chosen in which no task loses more than --max-loss. With --latency, the one whose
largest loss is smallest. The chosen combination is measured. Metrics: accuracy (tagging: over words), micro F1 (multi-label),
Pearson's correlation (regression).

Measurements are kept in --output: an interrupted run continues, and with other limits, only the combination that they choose
is timed again.
"""
_EPILOG = """\
exit status: 0 a combination is chosen; 1 none is, because of too few texts or because none is fast enough; 2 wrong use,
unsupported model or bad input

examples:
  python -m exporter advise --evaluation movie_sentiment=movies.jsonl --evaluation news_topic=news.jsonl
  python -m exporter advise --model my-model --evaluation sst2=sst2.jsonl --max-loss 0.5% --shape 8x64
  python -m exporter advise --model my-model --evaluation sst2=sst2.jsonl --latency 20ms --json
"""


def advise_parser() -> CommandParser:
    """Return the parser of the options of `advise`."""
    parser = CommandParser("python -m exporter advise", _DESCRIPTION, _EPILOG)
    add_sources(parser)
    add_tasks(parser)
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="texts with labels (.jsonl, .csv, .tsv) of a task; for tagging, text with a list of labels, one per word between "
        "white space; tasks without a file are left out; may be repeated",
    )
    parser.add_argument(
        "--max-loss",
        type=_share,
        metavar="X",
        help="share of its metric at drop 0 that a task may lose: 1%% or 0.01; default 1%%, with --latency no limit",
    )
    parser.add_argument("--latency", type=_seconds, metavar="T", help="longest time of a call: 20ms or 0.02s")
    parser.add_argument(
        "--shape",
        type=parse_shape,
        metavar="BxL",
        help="batch x length of a call; default 1x64, or the longest that the model takes",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads within an operator; default: those of ONNX Runtime")
    parser.add_argument("--max-drop", type=parse_layers, metavar="N", help="consider drops from 0 to N; default: all layers")
    parser.add_argument(
        "--keep-fused",
        type=_numbers,
        metavar="K,K",
        help="numbers of fusion members to try next to all of them, 0 for none; default: a quarter and a half",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="texts on which the attention of fusion members, and calibrated ranges in int8, are measured; default: texts of "
        "the fusion's evaluation",
    )
    parser.add_argument("--precision", default="fp32", metavar="P", help="fp32, fp16 or int8; default fp32")
    parser.add_argument("--target", default="portable", metavar="T", help="portable or cpu; default portable")
    parser.add_argument("--int8-ranges", metavar="R", help="row, tensor or calibrated, as for an export")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="texts per task; default 1000")
    parser.add_argument(
        "--output",
        type=parse_output,
        default=Path("advice"),
        metavar="DIR",
        help="folder for measurements, graphs, advice.json and pareto.png; default advice",
    )
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    parser.add_argument("--json", action="store_true", help="print the advice as one JSON object on standard output")
    return parser


def _share(text: str) -> float:
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and below 1, such as 1% or 0.01, found {text!r}")
    return share


def _seconds(text: str) -> float:
    factor, number = (1e-3, text[:-2]) if text.endswith("ms") else (1.0, text[:-1] if text.endswith("s") else "")
    try:
        seconds = factor * float(number)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time with its unit, such as 20ms or 0.02s, found {text!r}")
    return seconds


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"must be numbers of members, such as 1,2,4, found {text!r}")
    return [each for each in found if each]
