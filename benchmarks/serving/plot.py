"""Plot of the latency over the load."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.serving.engines import CANDIDATES
from benchmarks.serving.tables import Row, read

_OURS = ("#0072B2", "#009E73", "#56B4E9", "#CC79A7", "#004D73", "#7A5195", "#2F9E9E")
_OTHERS = ("#E69F00", "#D55E00", "#8C8C8C", "#5A5A5A", "#B8860B", "#A0522D")


def plot(path: Path) -> Path:
    """Write a PNG next to a results file: p95 over load, of the rows without repetitions and with one task per text.

    Returns:
        Path of the plot.
    """
    rows = read(path)
    most = max((row.tasks for row in rows), default=0)
    shown = [row for row in rows if row.per_text == 1 and row.repeats == 0 and row.tasks == most] or rows
    figure = Figure(figsize=(10, 5.6), dpi=150, facecolor="white")
    axes = figure.add_axes((0.08, 0.12, 0.6, 0.74))
    for ours, colors in ((True, _OURS), (False, _OTHERS)):
        own = [row for row in shown if CANDIDATES[row.candidate].ours is ours]
        for row, color in zip(own, colors, strict=False):
            _line(axes, row, color, 2.2 if ours else 1.4)
    objective = shown[0].objective_ms if shown else 50.0
    axes.axhline(objective, color="#1F2328", linestyle=(0, (4, 3)), linewidth=0.9)
    axes.text(0.01, objective * 1.04, f"objective: {objective:g} ms", transform=axes.get_yaxis_transform(), fontsize=8.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(objective / 5, objective * 5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("requests per second")
    axes.set_ylabel("95th percentile of the latency, ms")
    axes.grid(color="#E4E7EB", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)
    title = f"Latency under load: {most} tasks, one per text; lower and further to the right is better"
    figure.text(0.02, 0.94, title, fontsize=12, fontweight="bold")
    target = path.with_suffix(".png")
    figure.savefig(target, metadata={"Software": None})
    return target


def _line(axes: object, row: Row, color: str, width: float) -> None:
    points = sorted(row.points, key=lambda point: point.load)
    held = "no load" if row.load is None else f"{row.load:.3g}/s"
    label = f"{CANDIDATES[row.candidate].label}: {held}"
    places = ([point.load for point in points], [point.p95_ms for point in points])
    axes.plot(*places, color=color, linewidth=width, marker="o", markersize=3.5, label=label)  # type: ignore[attr-defined]
