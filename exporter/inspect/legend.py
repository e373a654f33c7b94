"""The part below the columns: the savings of one graph, and the meaning of the colours."""

from __future__ import annotations

from exporter.group_names import is_stem
from exporter.inspect import numbers as _numbers
from exporter.inspect.layout import LABELS, MARGIN, TRUNK_COLOUR, Layout, colour_of
from exporter.inspect.svg import INK, MUTED, Box, Shape, Text, text_width
from exporter.inspect.views import GraphView

GHOST = "#c3cad3"
_BAR = 16.0


def summary(graph: GraphView, layout: Layout) -> tuple[list[Shape], float]:
    """Return two pairs of bars, this graph compared with a graph per task, and their lower edge."""
    y = layout.bottom + 62
    if len(graph.tasks) < 2:
        return [], y - 34
    shapes: list[Shape] = []
    left = MARGIN + 2 * LABELS
    room = layout.width - MARGIN - left - 190
    trunk, tasks = graph.trunk_flops, dict.fromkeys(graph.groups, 0)
    weights = dict(tasks)
    for cell in graph.cells:
        if cell.owner != "trunk":
            tasks[cell.owner] += cell.flops
            weights[cell.owner] += cell.task_bytes
    rows = (
        ("computed", _numbers.flops, {"trunk": trunk, **tasks}, graph.alone_flops),
        ("stored", _numbers.size, {"trunk": graph.bytes - sum(weights.values()), **weights}, graph.alone_bytes),
    )
    for name, show, parts, alone in rows:
        total = sum(parts.values())
        scale = room / max(alone, total, 1)
        shapes.append(Text(MARGIN, y + 12, name, 13, INK, bold=True))
        shapes.append(Text(left - 10, y + 12, "this graph", 11, INK, "end"))
        x = left
        for owner, count in parts.items():
            shapes.append(Box(x, y, count * scale, _BAR, colour_of(graph, owner), radius=0))
            x += count * scale
        shapes.append(Text(x + 8, y + 12, show(total), 12, INK, bold=True))
        y += _BAR + 4
        shapes.append(Text(left - 10, y + 12, "a graph per task", 11, INK, "end"))
        shapes.append(Box(left, y, alone * scale, _BAR, "none", GHOST, dashed=True, radius=0))
        label = f"{show(alone)}, {_numbers.times(alone, total)} times as much"
        shapes.append(Text(left + alone * scale + 8, y + 12, label, 12, MUTED))
        y += _BAR + 18
    return shapes, y - 18


def legend(graph: GraphView, layout: Layout, y: float) -> tuple[list[Shape], float]:
    """Return the meanings of the colours, as many per line as fit, and their lower edge."""
    entries = [("trunk: computed once", TRUNK_COLOUR)]
    for group in graph.groups:
        count = sum(task.group == group for task in graph.tasks)
        what = f"{count} tasks of one structure, as one batch" if count > 1 else "1 task" if count else "the branch"
        what = "what tasks with different heads share, as one batch" if is_stem(group) else what
        entries.append((f"{group}: {what}", colour_of(graph, group)))
    if graph.tasks:
        entries.append(("the trunk's work that a graph per task would do again", ""))
    shapes: list[Shape] = []
    x = MARGIN
    for text, colour in entries:
        width = 20 + text_width(text, 11.5) + 18
        if x > MARGIN and x + width > layout.width - MARGIN:
            x, y = MARGIN, y + 20
        shapes.append(Box(x, y - 9, 12, 11, colour or "none", "none" if colour else GHOST, dashed=not colour))
        shapes.append(Text(x + 19, y, text, 11.5, INK))
        x += width
    y += 20
    shapes.append(Text(MARGIN, y, "Widths of boxes are to the scale of their floating-point operations.", 11.5, MUTED))
    return shapes, y
