"""The command line: python -m exporter inspect onnx."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.cli.parser import Parser

if TYPE_CHECKING:
    from exporter.inspect.views import GraphView, Inspection

_DESCRIPTION = """\
Look into an exported folder: what is trunk and what is branch, layer by layer, what each task costs in operations and weights,
which operators it goes to, what each pass of the compiler removed, and what one graph for all tasks saves.

Nothing is run: operations are counted from the graph, at the shape that --shape names.

--why runs the passes of the compiler once more over a copy of the written graph in memory, and prints the patterns that they
leave as they are, with the reasons. A reason that a later pass has removed from the graph, or that existed only before the
tasks became one batch, cannot be shown.
"""
_EPILOG = """\
exit status: 0 done; 2 wrong use, a folder that no export wrote, or a damaged one

examples:
  python -m exporter inspect onnx
  python -m exporter inspect onnx --shape 8x32 --drop 3
  python -m exporter inspect onnx --picture onnx.svg
  python -m exporter inspect onnx --why
  python -m exporter inspect onnx --why FuseAttention --drop 3
"""


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be BATCHxLENGTH, such as 1x128, found {text!r}") from None


def command_parser() -> Parser:
    """The parser of the command."""
    parser = Parser("python -m exporter inspect", _DESCRIPTION, _EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that an export wrote")
    parser.add_argument(
        "--shape", type=_shape, metavar="BxL", help="batch x length of the inputs; default 1x128; images: only the batch"
    )
    parser.add_argument("--drop", type=int, metavar="N", help="the variant to show in detail; the folder's first by default")
    parser.add_argument("--routed", action="store_true", help="show the graph whose rows choose their task")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw that graph into a .svg file, or a .png (matplotlib)")
    parser.add_argument(
        "--why",
        nargs="?",
        const="",
        metavar="TENSOR|PASS",
        help="show which patterns the compiler did not apply in that graph, and why: all, those of a pass or those at a tensor",
    )
    parser.add_argument("--json", action="store_true", help="all graphs as one JSON object on standard output")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = command_parser().parse_args(arguments)
    from exporter.errors import ExportError

    try:
        return _run(options)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from exporter.errors import ExportError
    from exporter.inspect.picture import save_picture
    from exporter.inspect.read import inspect_bundle
    from exporter.inspect.text import print_inspection

    inspection = inspect_bundle(options.folder, options.shape)
    drop = inspection.graphs[0].drop if options.drop is None else options.drop
    graphs = [graph for graph in inspection.graphs if (graph.drop, graph.routed) == (drop, options.routed)]
    if not graphs:
        there = ", ".join(f"drop {graph.drop}{' routed' if graph.routed else ''}" for graph in inspection.graphs)
        wanted = f"drop {drop}{' routed' if options.routed else ''}"
        raise ExportError(f"{options.folder} has no graph of {wanted}; it has {there}")
    if options.picture is not None:
        save_picture(inspection, graphs[0], options.picture)
    if options.why is not None:
        return _explain(options, inspection, graphs[0])
    if options.json:
        print(json.dumps(inspection.to_dict(), indent=2))
        return 0
    print_inspection(inspection, graphs[0], Console())
    if options.picture is not None:
        print(f"drew {options.picture}")
    return 0


def _explain(options: argparse.Namespace, inspection: Inspection, graph: GraphView) -> int:
    # Loads the compiler with onnxscript, which the rest of the command does without.
    why = importlib.import_module("exporter.inspect.why_text")
    if options.json:
        unapplied = why.explanation_document(options.folder, [each.file for each in inspection.graphs], options.why)
        print(json.dumps({**inspection.to_dict(), "unapplied": unapplied}, indent=2))
    else:
        print("\n".join(why.explanation_lines(options.folder, graph.file, options.why)))
    return 0
