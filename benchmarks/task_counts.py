"""Exports of the first T tasks of a model, for several T at several drops, and the calls of their graphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contender import Call, Feeds, Outputs
from benchmarks.models import Candidate
from benchmarks.onnx_contenders import open_session
from exporter import export
from runtime.bundle import MANIFEST, read_manifest


def counted_folder(folder: Path, tasks: int) -> Path:
    """Return the folder of the export with that number of tasks."""
    return folder / f"tasks{tasks}"


def export_counts(candidate: Candidate, folder: Path, counts: Sequence[int], drops: Sequence[int]) -> None:
    """Export the missing graphs; each is verified against PyTorch.

    Args:
        candidate: a model with at least as many tasks as the largest count.
        folder: folder of all exports.
        counts: numbers of tasks; each is a folder.
        drops: numbers of lowest layers without adapters; each is a graph in each folder.
    """
    for count in counts:
        own = counted_folder(folder, count)
        if not (own / MANIFEST).exists():
            print(f"exporting {count} task(s) at the drops {list(drops)} …", file=sys.stderr, flush=True)
            export(candidate.model, tasks=candidate.tasks[:count], drop=list(drops), output=own)


def graph_calls(folder: Path, threads: int, feeds: Feeds) -> dict[int, Call]:
    """Return the call of each graph of an export.

    Args:
        folder: the export.
        threads: threads within one operator.
        feeds: inputs.

    Returns:
        Drop -> call of all tasks, in the order of the export.
    """
    return {variant.drop: graph_call(folder / variant.model, threads, feeds) for variant in read_manifest(folder).variants}


def graph_call(graph: Path, threads: int, feeds: Feeds) -> Call:
    """Return the call of one graph file that computes all its outputs."""
    session = open_session(graph, threads)

    def call() -> Outputs:
        outputs: Outputs = session.run(None, feeds)
        return outputs

    return call
