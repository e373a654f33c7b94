"""The few shapes that a picture is made of, and their SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from runtime.printable import printable

INK, MUTED, PAPER = "#1f2933", "#616e7c", "#ffffff"
_FONTS = "Inter, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Box:
    """A rectangle with its upper left corner at (x, y), in pixels; y points down."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "none"
    stroke: str = "none"
    dashed: bool = False
    radius: float = 2.0


@dataclass(frozen=True)
class Line:
    """A line through the points, with an arrow head at its end where `arrow` is set."""

    points: tuple[tuple[float, float], ...]
    colour: str = INK
    width: float = 1.2
    arrow: bool = False


@dataclass(frozen=True)
class Text:
    """A line of text whose baseline begins, is centred or ends at (x, y), turned by `turn` degrees clockwise."""

    x: float
    y: float
    text: str
    size: float = 12
    colour: str = INK
    anchor: Literal["start", "middle", "end"] = "start"
    turn: float = 0
    bold: bool = False


Shape = Box | Line | Text


@dataclass(frozen=True)
class Picture:
    """Shapes from back to front on white paper of width x height pixels; `title` is the text for screen readers."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return an upper bound of the text's width in pixels, for the wide letters of DejaVu Sans."""
    narrow = sum(character in "iljtfrI.,:;|'()[] " for character in text)
    return size * (0.66 * (len(text) - narrow) + 0.37 * narrow) * (1.1 if bold else 1)


def to_svg(picture: Picture) -> str:
    """Return the picture as an SVG document."""
    size = f"{_number(picture.width)} {_number(picture.height)}"
    width, height = size.split()
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {size}" role="img" '
            f'font-family="{_FONTS}">',
            f"<title>{_escaped(picture.title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
            *(_element(shape) for shape in picture.shapes),
            "</svg>\n",
        )
    )


def _element(shape: Shape) -> str:
    if isinstance(shape, Box):
        dashes = ' stroke-dasharray="3 2.5"' if shape.dashed else ""
        return (
            f"<rect {_attributes(x=shape.x, y=shape.y, width=shape.width, height=shape.height, rx=shape.radius)} "
            f'fill="{shape.fill}" stroke="{shape.stroke}"{dashes}/>'
        )
    if isinstance(shape, Line):
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
        line = f'<polyline points="{points}" fill="none" stroke="{shape.colour}" stroke-width="{_number(shape.width)}"/>'
        if not shape.arrow:
            return line
        head = " ".join(f"{_number(x)},{_number(y)}" for x, y in arrow_head(shape))
        return f'{line}\n<polygon points="{head}" fill="{shape.colour}"/>'
    turn = f' transform="rotate({_number(shape.turn)} {_number(shape.x)} {_number(shape.y)})"' if shape.turn else ""
    weight = ' font-weight="bold"' if shape.bold else ""
    return (
        f'<text {_attributes(x=shape.x, y=shape.y)} font-size="{_number(shape.size)}" fill="{shape.colour}" '
        f'text-anchor="{shape.anchor}"{weight}{turn}>{_escaped(shape.text)}</text>'
    )


def _escaped(text: str) -> str:
    """Return the text for XML, which has no control characters."""
    return escape(printable(text))


def arrow_head(line: Line) -> list[tuple[float, float]]:
    """Return the triangle at the end of the line, which must point straight up or to the right."""
    (x, y), (_, before) = line.points[-1], line.points[-2]
    return [(x, y), (x - 3, y + 5), (x + 3, y + 5)] if before != y else [(x, y), (x - 5, y - 3), (x - 5, y + 3)]


def _attributes(**values: float) -> str:
    return " ".join(f'{name}="{_number(value)}"' for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def join(groups: Iterable[Iterable[Shape]]) -> tuple[Shape, ...]:
    """Return the shapes of all groups, from back to front."""
    return tuple(shape for group in groups for shape in group)
