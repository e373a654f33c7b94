"""Drawing of docs/vmap.svg: the forms in which the vectoriser has a value, and one branch on its way through the loop.

Run it with `python docs/draw_vmap.py`, or with the name of a PNG file to look at it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

INK, FAINT, PAPER, RULE = "#1f2933", "#5b6773", "#ffffff", "#d9dee4"
TRUNK = "#d9dee4"
# Okabe and Ito's palette, one colour per task, as in draw_graph.py.
TASKS = ("#0072b2", "#e69f00", "#009e73")
CONSTANT, FOLDED, STACKED, PER_TASK = "Constant", "Folded", "Stacked", "PerTask"
TINTS = {"trunk": "#eef0f3", CONSTANT: "#f6ecd2", FOLDED: "#dcebf6", STACKED: "#d8efe7", PER_TASK: "#f6e2d9"}
MONO: dict[str, Any] = {"family": "monospace", "fontsize": 9.5, "color": INK}
SMALL: dict[str, Any] = {"fontsize": 8.5, "color": FAINT}
WIDTH, HEIGHT = 13.2, 7.4  # of the drawing, in its own units and in inches


@dataclass(frozen=True)
class Form:
    """A form of a value: its name, its shape and what it means, in two lines."""

    name: str
    shape: str
    meaning: str


@dataclass(frozen=True)
class Step:
    """A node of the template: the rule that applies, what is converted for it, what is built, and the result's form."""

    node: str
    rule: str
    converted: str
    built: str
    form: str


FORMS = (
    Form("trunk", "[batch, …]", "the same for all tasks:\nnot in the environment"),
    Form(CONSTANT, "one array per task", "task weights, and what is\ncomputed from them at export"),
    Form(FOLDED, "[tasks x batch, …]", "the template's own operator,\nat a larger batch"),
    Form(STACKED, "[tasks, n, features]", "products with stacked weights\n[tasks, in, out]"),
    Form(PER_TASK, "one value per task", "shapes differ, or no rule:\nevery task by itself"),
)
STEPS = (
    Step("w = Mul(up, scale)", "evaluate", "", "nothing: computed at export", CONSTANT),
    Step("d = MatMul(h, down)", "weight_rule", "h: tiled and stacked", "MatMul(h, down)", STACKED),
    Step("r = Relu(d)", "fold", "", "Relu(d)", STACKED),
    Step("u = MatMul(r, w)", "weight_rule", "w: stacked", "MatMul(r, w)", STACKED),
    Step("y = Add(u, h)", "fold", "", "Add(u, h)", STACKED),
    Step("t = Gather(y, 0)", "fold", "y: Reshape to folded", "Gather(y, 0)", FOLDED),
    Step("l = Gemm(t, head)", "split", "t: Split by task", "Gemm(t, head), three times", PER_TASK),
)
NOTES = (
    "h is a trunk value; up, down, scale and head are task weights. A converted value is kept and used again.",
    "fold: the same operator at the batch of all tasks, or the same arithmetic on stacked values. An input per task: split.",
    "The routed graph runs the same loop with gathered rows in place of tasks, and refuses instead of splitting.",
)
COLUMNS = (4.35, 6.2, 7.55, 9.45, 12.2)
RULES = ("evaluate", "weight_rule", "fold", "split")


def glyph(axes: Axes, form: str, x: float, y: float, size: float = 1.0) -> None:
    """Draw a small picture of the form around the point (x, y); its height is at most 0.6."""

    def block(left: float, low: float, width: float, height: float, colour: str) -> None:
        corner = (x + left * size, y + low * size)
        axes.add_patch(Rectangle(corner, width * size, height * size, facecolor=colour, edgecolor=INK, lw=0.7))

    if form == "trunk":
        block(-0.3, -0.1, 0.6, 0.2, TRUNK)
    for number, colour in enumerate(TASKS):
        if form == CONSTANT:
            block(-0.36 + 0.26 * number, -0.1, 0.2, 0.2, colour)
        elif form == FOLDED:
            block(-0.3, 0.1 - 0.2 * number, 0.6, 0.2, colour)
        elif form == STACKED:
            block(-0.42 + 0.12 * (2 - number), 0.02 - 0.12 * number, 0.6, 0.2, colour)
        elif form == PER_TASK:
            block(-0.5 + (0, 0.24, 0.6)[number], -0.1, (0.16, 0.28, 0.4)[number], 0.2, colour)


def card(axes: Axes, form: Form, y: float) -> None:
    """Draw the card of a form: its picture, name, shape and meaning."""
    box = (0.1, y - 0.52)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(box, 3.75, 1.04, boxstyle=style, facecolor=TINTS[form.name], edgecolor=RULE, lw=0.8))
    glyph(axes, form.name, 0.78, y)
    axes.text(1.45, y + 0.28, form.name, fontsize=10, weight="bold", color=INK, va="center")
    axes.text(3.75, y + 0.28, form.shape, ha="right", va="center", **SMALL)
    axes.text(1.45, y - 0.17, form.meaning, va="center", linespacing=1.25, **SMALL)


def line(axes: Axes, step: Step, y: float) -> None:
    """Draw a row of the table: one node and the form of its result."""
    axes.plot([4.2, WIDTH - 0.1], [y - 0.31, y - 0.31], color=RULE, lw=0.8)
    axes.text(COLUMNS[0], y, step.node, va="center", **MONO)
    axes.text(COLUMNS[1], y, step.rule, va="center", fontsize=9.5, weight="bold", color=INK)
    axes.text(COLUMNS[2], y, step.converted, va="center", **SMALL)
    given = SMALL if step.form == CONSTANT else MONO
    axes.text(COLUMNS[3], y, step.built, va="center", **given)
    style = "round,pad=0,rounding_size=0.06"
    box = (COLUMNS[4] - 0.15, y - 0.23)
    axes.add_patch(FancyBboxPatch(box, 1.05, 0.46, boxstyle=style, facecolor=TINTS[step.form], edgecolor="none"))
    glyph(axes, step.form, COLUMNS[4] + 0.38, y, 0.6)


def rules(axes: Axes, y: float) -> None:
    """Draw the rules in the order in which they are tried."""
    x = 6.8
    axes.text(4.35, y, "for node in branch: first of", va="center", **MONO)
    for number, rule in enumerate(RULES):
        width = 0.2 + 0.09 * len(rule)
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch((x, y - 0.19), width, 0.38, boxstyle=style, facecolor=PAPER, edgecolor=INK, lw=0.9))
        axes.text(x + width / 2, y, rule, ha="center", va="center", fontsize=9.5, color=INK)
        x += width
        if number < len(RULES) - 1:
            arrow = {"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (x + 0.47, y), (x + 0.03, y), arrowprops=arrow)
            x += 0.5


def main() -> None:
    """Write docs/vmap.svg, or the PNG file that is named."""
    mpl.rcParams["svg.hashsalt"] = "vmap"  # the same picture is the same file
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.set_axis_off()
    figure.patch.set_facecolor(PAPER)
    axes.text(0.1, 7.05, "The forms of a value, for three tasks", fontsize=12, weight="bold", color=INK, va="center")
    for number, form in enumerate(FORMS):
        card(axes, form, 6.2 - 1.22 * number)
    axes.text(4.35, 7.05, "One branch: an adapter and a head", fontsize=12, weight="bold", color=INK, va="center")
    rules(axes, 6.45)
    titles = ("template", "rule", "converted first", "new graph", "result")
    for x, title in zip(COLUMNS, titles, strict=True):
        axes.text(x, 5.8, title, va="center", **SMALL)
    axes.plot([4.2, WIDTH - 0.1], [5.58, 5.58], color=INK, lw=0.9)
    for number, step in enumerate(STEPS):
        line(axes, step, 5.24 - 0.64 * number)
    for number, note in enumerate(NOTES):
        axes.text(4.35, 0.68 - 0.25 * number, note, va="center", **SMALL)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "vmap.svg"
    figure.savefig(target, metadata={"Date": None, "Creator": None} if target.suffix == ".svg" else None, dpi=100)


if __name__ == "__main__":
    main()
