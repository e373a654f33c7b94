"""Drawing of docs/graph.svg, the README's picture: the computation of three tasks today, and in an exported graph.

Run it with `python docs/draw_graph.py`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

LAYERS, DROP = 6, 3
# The palette of Okabe and Ito, suitable for colour-blind readers.
TRUNK, INK, PAPER = "#d9dee4", "#1f2933", "#ffffff"
TASKS = {"topic": "#0072b2", "mood": "#e69f00", "spam": "#009e73"}
HEIGHT, GAP = 0.62, 0.16


def box(axes: Axes, x: float, y: float, width: float, text: str, colour: str, ink: str = INK) -> None:
    """Draw a labelled box with its lower left corner at (x, y)."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", facecolor=colour, edgecolor=INK, lw=0.8
        )
    )
    axes.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=9, color=ink)


def arrow(axes: Axes, x: float, y: float, to_x: float, to_y: float) -> None:
    """Draw an arrow from (x, y) to (to_x, to_y)."""
    axes.annotate(
        "", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    )


def adapter(axes: Axes, x: float, y: float, colour: str, width: float = 0.2) -> None:
    """Draw an adapter as a coloured bar inside a box."""
    axes.add_patch(Rectangle((x, y + 0.12), width, HEIGHT - 0.24, facecolor=colour, edgecolor=INK, lw=0.6))


def level(row: int) -> float:
    """Return the y coordinate of a row of boxes, counted from the bottom."""
    return row * (HEIGHT + GAP)


def draw_today(axes: Axes) -> None:
    """Draw the left half: a separate model per task."""
    axes.set_title("today: one file per task, every layer every time", fontsize=11, color=INK, pad=8)
    for column, (name, colour) in enumerate(TASKS.items()):
        x = column * 2.3
        axes.text(x + 1, level(0) - 0.12, "text", ha="center", va="top", fontsize=9, color=INK)
        box(axes, x, level(0), 2, "embeddings", TRUNK)
        for row in range(LAYERS):
            arrow(axes, x + 1, level(row) + HEIGHT, x + 1, level(row + 1))
            box(axes, x, level(row + 1), 2, f"layer {row}", TRUNK)
            adapter(axes, x + 1.7, level(row + 1), colour)
        arrow(axes, x + 1, level(LAYERS) + HEIGHT, x + 1, level(LAYERS + 1))
        box(axes, x + 0.3, level(LAYERS + 1), 1.4, name, colour, PAPER)


def draw_exported(axes: Axes) -> None:
    """Draw the right half: one exported graph with a shared trunk."""
    axes.set_title(f"exported with --drop {DROP}: one graph", fontsize=11, color=INK, pad=8)
    middle = 3.3
    axes.text(middle, level(0) - 0.12, "text", ha="center", va="top", fontsize=9, color=INK)
    box(axes, middle - 1, level(0), 2, "embeddings", TRUNK)
    for row in range(LAYERS):
        arrow(axes, middle, level(row) + HEIGHT, middle, level(row + 1))
        # The first adapters are at the end of layer DROP: everything before them is the same for all tasks.
        if row <= DROP:
            box(axes, middle - 1, level(row + 1), 2, f"layer {row}", TRUNK)
        else:
            box(axes, 0.6, level(row + 1), 5.4, "", TRUNK)
            text = f"layer {row}, all tasks as one batch" + ",\nonly the token that the heads read" * (row == LAYERS - 1)
            axes.text(middle - 0.5, level(row + 1) + HEIGHT / 2, text, ha="center", va="center", fontsize=9, color=INK)
        if row >= DROP:
            for number, colour in enumerate(TASKS.values()):
                adapter(axes, (4.4 if row == DROP else 5.05) + number * 0.28, level(row + 1), colour)
    for column, (name, colour) in enumerate(TASKS.items()):
        x = middle + (column - 1) * 1.9
        arrow(axes, x, level(LAYERS) + HEIGHT, x, level(LAYERS + 1))
        box(axes, x - 0.7, level(LAYERS + 1), 1.4, name, colour, PAPER)
    edge, low, high = middle - 1.2, level(0), level(DROP + 1) + HEIGHT
    axes.plot([edge, edge - 0.12, edge - 0.12, edge], [low, low, high, high], color=INK, lw=0.9)
    axes.text(edge - 0.25, (low + high) / 2, "computed\nonce", ha="right", va="center", fontsize=9, color=INK)
    axes.text(5.4, level(DROP + 1) + HEIGHT / 2, "all as one batch", ha="left", va="center", fontsize=9, color=INK)


def main() -> None:
    """Write docs/graph.svg."""
    mpl.rcParams["svg.hashsalt"] = "graph"  # deterministic file contents
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    draw_today(left)
    draw_exported(right)
    for axes in (left, right):
        axes.set_xlim(-0.2, 6.8)
        axes.set_ylim(-0.5, level(LAYERS + 1) + HEIGHT + 0.1)
        axes.set_axis_off()
    figure.patch.set_facecolor(PAPER)
    figure.text(0.5, 0.015, "coloured bars: the adapters of the three tasks", ha="center", fontsize=9, color=INK)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    target = Path(__file__).parent / "graph.svg"
    figure.savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
