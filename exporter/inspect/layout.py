"""The layout of the picture of a graph: columns, rows and scale."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.inspect.svg import text_width
from exporter.inspect.views import GraphView

# Okabe and Ito's palette, which people with any colour vision can distinguish; the trunk is slate.
TRUNK_COLOUR = "#52606d"
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a200")

MARGIN, LABELS = 28.0, 84.0
COLUMN_GAP, GROUP_GAP, TRUNK_GAP = 5.0, 20.0, 30.0
NAME_SIZE = 12.0
_WIDE, _COLUMN_MOST, _COLUMN_LEAST = 760.0, 150.0, 11.0
_TRUNK_LEAST = 46.0
_TALL, _ROW_MOST, _ROW_LEAST = 480.0, 44.0, 15.0
# cos 45°, of the task names above narrow columns
_DIAGONAL = 0.7071


@dataclass(frozen=True)
class Column:
    """One column of boxes.

    Attributes:
        name: the name of the task, or "trunk".
        group: the group of the task, or "trunk".
        own: operations per level, which are drawn filled.
        again: operations of the trunk per level that a graph of only this task would repeat.
        x: the left edge.
        width: the width of the widest box.
    """

    name: str
    group: str
    own: tuple[int, ...]
    again: tuple[int, ...]
    x: float = 0
    width: float = 0


@dataclass(frozen=True)
class Layout:
    """Positions and sizes in the picture.

    Attributes:
        trunk: the first column.
        columns: the columns of the tasks, sorted by group.
        scale: pixels per operation.
        rows: the upper edge of each level.
        row: the height of a level's box.
        top: where the rows begin.
        bottom: where they end.
        side: where the panel of the weights begins.
        width: the width of the whole picture.
        turned: whether the names are written diagonally.
    """

    trunk: Column
    columns: tuple[Column, ...]
    scale: float
    rows: tuple[float, ...]
    row: float
    top: float
    bottom: float
    side: float
    width: float
    turned: bool


SIDE_WIDTH = 300.0


def colour_of(graph: GraphView, group: str) -> str:
    """Return the colour of a group, or of the trunk."""
    groups = graph.groups
    return _PALETTE[groups.index(group) % len(_PALETTE)] if group in groups else TRUNK_COLOUR


def lay_out(graph: GraphView, head: float) -> Layout:
    """Lay out the picture of a graph.

    Args:
        graph: the graph.
        head: the height of the title.
    """
    trunk, columns = _columns(graph)
    widest = [max(map(sum, zip(column.own, column.again, strict=True)), default=0) for column in (trunk, *columns)]
    most, total = max(widest), sum(widest)
    least = min((count for count in widest if count), default=1)
    # Wide enough to see the narrowest column, and no wider than a screen where that is possible.
    scale = max(min(_WIDE / total, _COLUMN_MOST / most), min(_COLUMN_LEAST / least, 3 * _COLUMN_MOST / most)) if most else 1
    x = MARGIN + LABELS
    trunk = Column(trunk.name, trunk.group, trunk.own, trunk.again, x, max(widest[0] * scale, _TRUNK_LEAST))
    x += trunk.width + TRUNK_GAP
    placed: list[Column] = []
    for column, count in zip(columns, widest[1:], strict=True):
        if placed:
            x += COLUMN_GAP if placed[-1].group == column.group else GROUP_GAP
        width = max(count * scale, _COLUMN_LEAST)
        placed.append(Column(column.name, column.group, column.own, column.again, x, width))
        x += width
    turned = any(text_width(column.name, NAME_SIZE) > column.width + COLUMN_GAP - 2 for column in placed)
    names = [text_width(column.name, NAME_SIZE) for column in placed]
    reach = [c.x + c.width / 2 + _DIAGONAL * name for c, name in zip(placed, names, strict=True)] if turned else []
    side = max([x + GROUP_GAP, *(end + 4 for end in reach)])
    top = head + (_DIAGONAL * (max(names, default=0) + NAME_SIZE) if turned else NAME_SIZE) + 32
    pitch = min(_ROW_MOST, max(_ROW_LEAST, _TALL / len(graph.levels)))
    row = pitch * 0.76
    rows = tuple(top + pitch * index for index in reversed(range(len(graph.levels))))
    width = side + SIDE_WIDTH + MARGIN
    return Layout(trunk, tuple(placed), scale, rows, row, top, rows[0] + row, side, width, turned)


def _columns(graph: GraphView) -> tuple[Column, list[Column]]:
    by_owner = {
        owner: tuple(sum(c.flops for c in graph.cells if (c.level, c.owner) == (level, owner)) for level in graph.levels)
        for owner in ("trunk", *graph.groups)
    }
    nothing = (0,) * len(graph.levels)
    trunk = Column("trunk", "trunk", by_owner["trunk"], nothing)
    if not graph.tasks:
        return trunk, [Column("the row's task", group, by_owner[group], nothing) for group in graph.groups]
    order = {group: number for number, group in enumerate(("trunk", *graph.groups))}
    tasks = sorted(graph.tasks, key=lambda task: order[task.group])
    return trunk, [
        Column(
            task.name,
            task.group,
            task.flops,
            tuple(max(0, alone - own) for alone, own in zip(task.alone_flops, task.flops, strict=True)),
        )
        for task in tasks
    ]
