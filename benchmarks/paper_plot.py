"""Plots of the figures of the AdapterDrop paper: published, eager and ours side by side, a picture per table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.paper_tables import TABLES, Figure, shown

_INK, _MUTED = "#1F2328", "#6A737D"
_COLORS = {"paper": "#B8BEC6", "eager adapters": "#E69F00", "ours": "#0072B2"}
_WIDTH, _DPI = 0.26, 150
_TITLES = {
    "saved": {"layer": "Time saved by each shared layer", "five": "Time saved by five shared layers (n = 5)"},
    "speed": {"fusion": "Speed relative to a fine-tuned model"},
    "faster": {"fusion": "Faster than 8 members by"},
}


def plot(rows: Sequence[Figure], stem: Path) -> list[Path]:
    """Write a PNG per table and shape, STEM-TABLE-SHAPE.png, and return the files.

    Args:
        rows: the figures.
        stem: path of the pictures without the part after it.
    """
    found = []
    for table in TABLES:
        for shape in dict.fromkeys(row.shape for row in rows if row.table == table):
            path = stem.with_name(f"{stem.name}-{table}-{shape}.png")
            _picture([row for row in rows if (row.table, row.shape) == (table, shape)], path)
            found.append(path)
    return found


def _picture(rows: Sequence[Figure], path: Path) -> None:
    units = list(dict.fromkeys(row.unit for row in rows))
    widths = [sum(row.unit == unit for row in rows) for unit in units]
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "axes.edgecolor": _MUTED}):
        picture = Picture(figsize=(3.0 + 1.35 * len(rows), 4.0), dpi=_DPI, facecolor="white", layout="constrained")
        panels = picture.subplots(1, len(units), width_ratios=widths, squeeze=False)[0]
        for unit, axes in zip(units, panels, strict=True):
            _panel(axes, [row for row in rows if row.unit == unit])
        handles, labels = panels[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        rounds = " to ".join(map(str, sorted({min(row.rounds for row in rows), max(row.rounds for row in rows)})))
        note = f"batch x length {rows[0].shape}, {rounds} interleaved rounds; lines: 95 % intervals; paper: on GPUs"
        picture.supxlabel(note, fontsize=7.5, color=_MUTED)
        picture.savefig(path, metadata={"Software": None})


def _panel(axes: Axes, rows: Sequence[Figure]) -> None:
    scale = 1.0 if rows[0].unit == "speed" else 100.0
    highest = 0.0
    for place, row in enumerate(rows):
        values = {"paper": row.published, "eager adapters": row.eager.median, "ours": row.ours.median}
        spans = {"eager adapters": row.eager, "ours": row.ours}
        for number, (name, value) in enumerate(values.items()):
            at = place + (number - 1) * _WIDTH
            if value is None:
                axes.text(at, 0, "none", ha="center", va="bottom", fontsize=7.5, color=_MUTED, rotation=90)
                continue
            axes.bar(at, scale * value, _WIDTH * 0.94, color=_COLORS[name], label=name if place == 0 else None, zorder=2)
            top = value
            if name in spans:
                low, high = spans[name].low, spans[name].high
                axes.vlines(at, scale * low, scale * high, color=_INK, linewidth=1.1, zorder=3)
                top = max(value, high)
            highest = max(highest, scale * top)
            axes.annotate(
                shown(value, row, ""), (at, scale * max(top, 0)), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_xticks(range(len(rows)), [row.what.replace(" instead", "\ninstead").replace(", ", ",\n") for row in rows])
    axes.set_title(_TITLES[rows[0].unit][rows[0].table], loc="left", fontsize=10, fontweight="bold")
    axes.set_ylim(top=1.12 * highest)
    if rows[0].unit != "speed":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.grid(axis="y", color="#E4E7EB", linewidth=0.8, zorder=0)
    axes.axhline(0, color=_MUTED, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
