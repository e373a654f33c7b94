"""The picture of one graph: the part that is computed once, the parts per task, and the savings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exporter.errors import ExportError
from exporter.inspect import numbers as _numbers
from exporter.inspect.layout import LABELS, MARGIN, NAME_SIZE, SIDE_WIDTH, TRUNK_COLOUR, Column, Layout, colour_of, lay_out
from exporter.inspect.legend import GHOST, legend, summary
from exporter.inspect.png import to_png
from exporter.inspect.svg import INK, MUTED, PAPER, Box, Line, Picture, Shape, Text, join, text_width, to_svg
from exporter.inspect.views import GraphView, Inspection
from runtime.bundle.whole_file import write_whole

_TINT = "#f3f5f8"
_HEAD = 74.0
_LEAST = 2.0  # pixels of the thinnest box
_MINI = 11.0


def draw(inspection: Inspection, graph: GraphView) -> Picture:
    """Draw one of the inspection's graphs; all boxes have one height, and widths in proportion to their operations."""
    layout = lay_out(graph, _HEAD)
    bars, bars_end = summary(graph, layout)
    keys, end = legend(graph, layout, bars_end + 30)
    title = f"{graph.file}: {_tasks(len(graph.tasks))}, drop {graph.drops} of {inspection.layers} layers"
    if graph.routed:
        title = f"{graph.file}: each row selects one task, drop {graph.drops} of {inspection.layers} layers"
    shapes = join(
        (
            _title(inspection, graph, title),
            _levels(graph, layout),
            _columns(graph, layout),
            _side(graph, layout),
            bars,
            keys,
        )
    )
    width = max(layout.width, 2 * MARGIN + text_width(title, 20, bold=True))
    return Picture(width, end + MARGIN - 8, title, shapes)


def save_picture(inspection: Inspection, graph: GraphView, path: Path) -> None:
    """Write the picture in the format of the file's suffix; an earlier file is replaced as a whole.

    Raises:
        ExportError: the suffix is neither .svg nor .png, the folder does not exist, or a PNG is wanted without matplotlib; or
            the file cannot be written.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise ExportError(f"the picture must be a .svg or .png file, found {str(path)!r}")
    picture = draw(inspection, graph)
    content = to_png(picture) if path.suffix.lower() == ".png" else to_svg(picture).encode()
    try:
        write_whole(path, [content])
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def _title(inspection: Inspection, graph: GraphView, title: str) -> Iterator[Shape]:
    yield Text(MARGIN, 40, title, 20, bold=True)
    shape = " x ".join(map(str, inspection.shape))
    kind = "batch x length" if len(inspection.shape) > 1 else "batch"
    facts = (
        f"{_numbers.flops(graph.flops)} at {shape} ({kind})",
        f"{_numbers.size(graph.bytes)} of weights",
        f"{graph.nodes} nodes",
        inspection.precision,
        f"target {inspection.target}",
    )
    yield Text(MARGIN, 62, "  ·  ".join(facts), 13, MUTED)


def _levels(graph: GraphView, layout: Layout) -> Iterator[Shape]:
    """Draw the names of the rows, on the left."""
    for name, y in zip(graph.levels, layout.rows, strict=True):
        size = min(12.0, layout.row * 0.85)
        yield Text(MARGIN + LABELS - 12, y + layout.row / 2 + size * 0.36, name, size, INK, "end")


def _columns(graph: GraphView, layout: Layout) -> Iterator[Shape]:
    for group in dict.fromkeys(column.group for column in layout.columns):
        members = [column for column in layout.columns if column.group == group]
        left, right = members[0].x - 6, members[-1].x + members[-1].width + 6
        yield Box(left, layout.top - 8, right - left, layout.bottom - layout.top + 16, _TINT, radius=6)
    yield from _boxes(layout.trunk, layout, TRUNK_COLOUR)
    yield _name(layout.trunk, layout, bold=True)
    for column in layout.columns:
        yield from _boxes(column, layout, colour_of(graph, column.group))
        yield _name(column, layout)
    yield from _fan(layout)
    yield from _sums(layout)


def _boxes(column: Column, layout: Layout, colour: str) -> Iterator[Shape]:
    for own, again, y in zip(column.own, column.again, layout.rows, strict=True):
        width, ghost = own * layout.scale, again * layout.scale
        width = max(width, _LEAST) if own else 0.0
        left = column.x + (column.width - width - ghost) / 2
        if ghost >= _LEAST:
            yield Box(left, y, ghost, layout.row, "none", GHOST, dashed=True)
        if own:
            yield Box(left + ghost, y, width, layout.row, colour, radius=min(2.0, width / 2))
        text = _numbers.flops(own).removesuffix("FLOP")
        size = min(11.0, layout.row * 0.6)
        if own and text_width(text, size) < width - 6 and size >= 8:
            yield Text(left + ghost + width / 2, y + layout.row / 2 + size * 0.36, text, size, PAPER, "middle")


def _name(column: Column, layout: Layout, bold: bool = False) -> Text:
    x, y = column.x + column.width / 2, layout.top - 16
    if layout.turned and not bold:
        return Text(x + 4, y, column.name, NAME_SIZE, INK, "start", -45)
    return Text(x, y, column.name, NAME_SIZE, INK, "middle", bold=bold)


def _fan(layout: Layout) -> Iterator[Shape]:
    """Draw lines from the end of the trunk to the beginning of each task."""
    pitch = layout.rows[0] - layout.rows[1]
    starts: dict[float, list[float]] = {}
    for column in layout.columns:
        level = next((number for number, own in enumerate(column.own) if own), None)
        if level is not None:
            # Above a row that begins in the trunk and ends in the task, for example with an adapter.
            after = column.again[level] > 0 and level + 1 < len(layout.rows)
            y = layout.rows[level] + layout.row + (pitch - layout.row) / 2 - (pitch if after else 0)
            starts.setdefault(y, []).append(column.x + column.width / 2)
    for y, ends in starts.items():
        trunk = layout.trunk.x + layout.trunk.width / 2
        yield Line(((trunk, y + (pitch - layout.row) / 2), (trunk, y), (max(ends), y)), INK, 1.4)
        for x in ends:
            yield Line(((x, y), (x, y - (pitch - layout.row) / 2 - 1)), INK, 1.4)


def _sums(layout: Layout) -> Iterator[Shape]:
    """Write the total of each column below it."""
    columns = (layout.trunk, *layout.columns)
    texts = [_numbers.flops(sum(column.own)).removesuffix("FLOP") for column in columns]
    upright = all(text_width(text, 11) < column.width + 3 for text, column in zip(texts, columns, strict=True))
    y = layout.bottom + 24
    yield Text(MARGIN + LABELS - 12, y, "FLOP", 11, MUTED, "end")
    for text, column in zip(texts, columns, strict=True):
        x = column.x + column.width / 2
        if upright or column is layout.trunk:
            yield Text(x, y, text, 11, MUTED, "middle")
        else:
            yield Text(x + 4, y - 9, text, 11, MUTED, "end", -90)


def _side(graph: GraphView, layout: Layout) -> Iterator[Shape]:
    """Draw the operations and weights of each level, on the right."""
    x = layout.side + 12
    numbers, bars, end = x + 66, x + 86, layout.side + SIDE_WIDTH - 66
    y = layout.top - 16
    yield Text(numbers, y, "computed", NAME_SIZE, INK, "end", bold=True)
    yield Text(bars, y, "weights, stored once", NAME_SIZE, INK, bold=True)
    rows = [[cell for cell in graph.cells if cell.level == level] for level in graph.levels]
    most = max((sum(cell.shared_bytes + cell.task_bytes for cell in row) for row in rows), default=0) or 1
    for row, top in zip(rows, layout.rows, strict=True):
        size = min(11.0, layout.row * 0.85)
        baseline = top + layout.row / 2 + size * 0.36
        yield Text(numbers, baseline, _numbers.flops(sum(cell.flops for cell in row)), size, INK, "end")
        height = min(_MINI, layout.row)
        parts = [(sum(cell.shared_bytes for cell in row), TRUNK_COLOUR)]
        parts += [(cell.task_bytes, colour_of(graph, cell.owner)) for cell in row]
        left = bars
        for count, colour in parts:
            if count:
                width = max(count / most * (end - bars), 0.5)
                yield Box(left, top + (layout.row - height) / 2, width, height, colour, radius=0)
                left += width
        yield Text(left + 6, baseline, _numbers.size(sum(count for count, _ in parts)), size, INK)
