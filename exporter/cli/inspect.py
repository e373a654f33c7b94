"""Shows what an exported folder contains: python -m exporter inspect onnx."""

from __future__ import annotations

import argparse
import importlib
import json

from exporter.cli.output import plain_console, printing
from exporter.errors import ExportError
from exporter.inspect.picture import save_picture
from exporter.inspect.read import inspect_bundle
from exporter.inspect.text import print_inspection
from exporter.inspect.views import GraphView, Inspection
from runtime.printable import printable


def run(options: argparse.Namespace) -> None:
    """Print the parts that the options select, and draw the picture.

    Raises:
        ExportError: the folder is not a bundle, is damaged, or does not have the requested graph.
    """
    with printing():
        _run(options)


def _run(options: argparse.Namespace) -> None:
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
        _explain(options, inspection, graphs[0])
        return
    if options.json:
        print(json.dumps(inspection.to_dict(), indent=2))
        return
    print_inspection(inspection, graphs[0], plain_console())
    if options.picture is not None:
        print(f"drew {options.picture}")


def _explain(options: argparse.Namespace, inspection: Inspection, graph: GraphView) -> None:
    # Imported here, because it loads the compiler with onnxscript, which the rest of the command does not need.
    why = importlib.import_module("exporter.inspect.why_text")
    if options.json:
        unapplied = why.explanation_document(options.folder, [each.file for each in inspection.graphs], options.why)
        print(json.dumps({**inspection.to_dict(), "unapplied": unapplied}, indent=2))
    else:
        print("\n".join(map(printable, why.explanation_lines(options.folder, graph.file, options.why))))
