"""The same picture as PNG, drawn by matplotlib."""

from __future__ import annotations

import io

from exporter.errors import ExportError
from exporter.inspect.svg import PAPER, Box, Line, Picture, Shape, arrow_head

# Points per pixel of a figure at 100 dots per inch; the file has twice as many dots, for sharp letters.
_POINTS = 0.72
_ALIGN = {"start": "left", "middle": "center", "end": "right"}


def to_png(picture: Picture) -> bytes:
    """Return the content of a PNG file with two dots per pixel.

    Raises:
        ExportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError("a PNG is drawn by matplotlib: pip install matplotlib, or name a file that ends in .svg") from error
    figure = Figure(figsize=(picture.width / 100, picture.height / 100), facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    axes.set_axis_off()
    for order, shape in enumerate(picture.shapes):
        _draw(axes, shape, order)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    return content.getvalue()


def _draw(axes: object, shape: Shape, order: int) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import FancyBboxPatch, Polygon

    assert isinstance(axes, Axes)
    if isinstance(shape, Box):
        radius = min(shape.radius, shape.width / 2, shape.height / 2)
        axes.add_patch(
            FancyBboxPatch(
                (shape.x, shape.y),
                shape.width,
                shape.height,
                boxstyle=f"round,pad=0,rounding_size={radius}",
                facecolor=shape.fill,
                edgecolor=shape.stroke,
                linewidth=_POINTS,
                linestyle=(0, (3, 2.5)) if shape.dashed else "solid",
                zorder=order,
            )
        )
    elif isinstance(shape, Line):
        x, y = zip(*shape.points, strict=True)
        axes.plot(x, y, color=shape.colour, linewidth=shape.width * _POINTS, zorder=order, solid_capstyle="butt")
        if shape.arrow:
            axes.add_patch(Polygon(arrow_head(shape), facecolor=shape.colour, edgecolor="none", zorder=order))
    else:
        axes.text(
            shape.x,
            shape.y,
            shape.text,
            fontsize=shape.size * _POINTS,
            color=shape.colour,
            ha=_ALIGN[shape.anchor],
            va="baseline",
            rotation=-shape.turn,
            rotation_mode="anchor",
            fontweight="bold" if shape.bold else "normal",
            family="DejaVu Sans",
            zorder=order,
            parse_math=False,
        )
