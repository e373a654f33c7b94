"""Patterns that were not applied, as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from exporter.inspect.why import Explanation, Unapplied

__all__ = ["explanation_lines"]

# Of one pass where all of them are shown: reasons, and tensors for each.
_REASONS, _TENSORS = 4, 3


def explanation_lines(explanation: Explanation, name: str) -> Iterator[str]:
    """Describe what was not applied in one graph, pass by pass.

    Args:
        explanation: of the graph.
        name: a pass or a tensor, which is then shown in full; empty for everything in short.

    Raises:
        ExportError: as `Explanation.select`.
    """
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
