"""Patterns that were not applied, as text and as JSON types."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporter.inspect.why import Unapplied, explain_graph
from runtime.bundle import read_manifest

__all__ = ["explanation_document", "explanation_lines"]

# Of one pass where all of them are shown: reasons, and tensors for each.
_REASONS, _TENSORS = 4, 3


def explanation_lines(folder: Path, graph: str, name: str) -> Iterator[str]:
    """Describe what was not applied in one graph, pass by pass.

    Args:
        folder: a bundle.
        graph: the file of one of its graphs.
        name: a pass or a tensor, which is then shown in full; empty for everything in short.

    Raises:
        ExportError: as `explain_graph` and `Explanation.select`.
    """
    explanation = explain_graph(folder / graph, read_manifest(folder))
    found = explanation.select(name)
    about = f" of {name}" if name else ""
    if not found:
        yield f"{explanation.file}: no pattern{about} was left that a pass for {explanation.compiled_for} looks for"
        return
    yield f"{explanation.file}, {explanation.compiled_for}: patterns{about} that were not applied"
    steps: dict[str, dict[tuple[str, str], list[Unapplied]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        steps[each.step][each.op_type, each.reason].append(each)
    for step, reasons in steps.items():
        yield f"{step}: {sum(map(len, reasons.values()))}"
        yield from _in_full(reasons) if name else _in_short(reasons)


def explanation_document(folder: Path, graphs: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Describe what was not applied as JSON types, a graph at a time.

    Args:
        folder: a bundle.
        graphs: the files of its graphs.
        name: as in `explanation_lines`; a tensor need not be in all of the graphs.

    Raises:
        ExportError: no graph has the tensor, or as `explain_graph` and `Explanation.select`.
    """
    manifest = read_manifest(folder)
    explanations = [explain_graph(folder / graph, manifest) for graph in graphs]
    somewhere = any(name in each.tensors for each in explanations)
    document = []
    for each in explanations:
        patterns = each.select(name) if not somewhere or name in each.tensors else ()
        document.append({"file": each.file, "patterns": [asdict(pattern) for pattern in patterns]})
    return document


def _in_full(reasons: dict[tuple[str, str], list[Unapplied]]) -> Iterator[str]:
    for (op_type, reason), found in reasons.items():
        yield f"  {op_type}: {reason}"
        yield from (f"    {each.tensor}" for each in found)


def _in_short(reasons: dict[tuple[str, str], list[Unapplied]]) -> Iterator[str]:
    more = sum(map(len, reasons.values()))
    for (op_type, reason), found in list(reasons.items())[:_REASONS]:
        shown = found[:_TENSORS]
        more -= len(shown)
        count = f" ({len(found)} times)" if len(found) > 1 else ""
        names = ", ".join([*(each.tensor for each in shown), *["…"][: len(found) - len(shown)]])
        yield f"  {op_type}: {reason}{count}: {names}"
    if more:
        yield f"  … and {more} more; name the pass to see all"
