"""Curves of the score against the drop: a panel per task and precision, a line per method, a band over seeds."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.quality.methods import SPECIALISED
from training.quality.scores import Scores

_INK, _MUTED = "#1F2328", "#6A737D"
_COLORS = {"standard": "#0072B2", "specialised": "#009E73", "robust": "#D55E00", "shared": "#8E6BBF"}
_DPI = 150
_FOR_A_CURVE = 3  # drops


def plot(scores: Scores, path: Path) -> None:
    """Draw the curves as a PNG. A precision that was measured at fewer than three drops has no curves, unless all are.

    Args:
        scores: the accuracies.
        path: the file.
    """
    precisions = [each for each in scores.precisions if len(scores.drops_of(each)) >= _FOR_A_CURVE] or scores.precisions
    rows, columns = len(precisions), len(scores.tasks)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "axes.edgecolor": _MUTED}):
        picture = Figure(figsize=(3.6 * columns, 2.9 * rows + 0.5), dpi=_DPI, facecolor="white", layout="constrained")
        panels = picture.subplots(rows, columns, sharex=True, sharey="col", squeeze=False)
        for precision, line in zip(precisions, panels, strict=True):
            for task, axes in zip(scores.tasks, line, strict=True):
                _panel(axes, scores, task, precision)
        for axes in panels[-1]:
            axes.set_xlabel("n: layers without adapters")
        for precision, axes in zip(precisions, panels[:, 0], strict=True):
            axes.set_ylabel(f"accuracy, {precision}")
        handles, labels = panels[0][0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        picture.savefig(path, metadata={"Software": None})


def _panel(axes: Axes, scores: Scores, task: str, precision: str) -> None:
    for method in scores.methods:
        found = {drop: scores.score(task, method, precision, drop) for drop in scores.drops}
        points = {drop: spread for drop, spread in found.items() if spread is not None}
        if not points:
            continue
        drops = list(points)
        means = [100 * each.mean for each in points.values()]
        axes.plot(drops, means, color=_COLORS[method], label=method, linewidth=1.6, marker="o", markersize=2.5)
        axes.fill_between(
            drops,
            [100 * each.low for each in points.values()],
            [100 * each.high for each in points.values()],
            color=_COLORS[method],
            alpha=0.15,
            linewidth=0,
        )
    axes.axhline(100 * scores.baseline(task), color=_MUTED, linestyle=":", linewidth=1.0, label="most frequent label")
    axes.axvline(SPECIALISED, color="#E4E7EB", linewidth=1.0, zorder=0)
    axes.set_title(task, loc="left", fontsize=10, fontweight="bold")
    axes.set_xticks(range(0, max(scores.drops) + 1, 2))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.grid(axis="y", color="#E4E7EB", linewidth=0.8, zorder=0)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
