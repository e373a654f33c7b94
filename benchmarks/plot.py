"""Plot of the result of a run."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.contender import Family
from benchmarks.options import Shape
from benchmarks.report import Result, Row

# The palette of Okabe and Ito, suitable for colour-blind readers; our contenders have the only strong colour.
_COLORS: dict[Family, str] = {"eager": "#B8BEC6", "compile": "#6E7781", "files": "#E69F00", "ours": "#0072B2"}
_LEGEND: dict[Family, str] = {
    "eager": "PyTorch",
    "compile": "PyTorch, compiled",
    "files": "ONNX, one file per task",
    "ours": "ours: one graph for all tasks",
}
_HALO = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
_INK, _MUTED = "#1F2328", "#6A737D"
_WIDTH_INCHES, _DPI = 10.0, 150
_LETTER = 0.0085  # of the figure's width
_ROOM = 1.5  # for the text behind the longest bar
_BAR_INCHES, _PANEL_INCHES, _HEAD_INCHES, _FOOT_INCHES = 0.30, 0.62, 1.05, 0.95
_FOOT_LETTERS = 150


def plot(result: Result, path: Path) -> None:
    """Write a PNG with one panel per shape and one bar per contender: throughput relative to the fastest eager contender."""
    shapes = result.options.shapes
    panels = [result.at(shape) for shape in shapes]
    heights = [_BAR_INCHES * len(rows) + _PANEL_INCHES for rows in panels]
    height = sum(heights) + _HEAD_INCHES + _FOOT_INCHES
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "axes.edgecolor": _MUTED}):
        figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, facecolor="white")
        ratios = [row.stats.throughput_ratio for row in result.rows if row.stats and row.stats.throughput_ratio is not None]
        limit = _ROOM * max([1.0, *ratios])
        top = height - _HEAD_INCHES
        left = max(0.235, _LETTER * max(len(row.contender.label) for row in result.rows))
        for shape, rows, size in zip(shapes, panels, heights, strict=True):
            bottom = top - size + 0.26
            axes = figure.add_axes((left, bottom / height, 0.98 - left, (size - _PANEL_INCHES) / height))
            _panel(axes, result, shape, rows, limit)
            top -= size
        _head(figure, result, height)
        figure.text(0.02, 0.20 / height, _foot(result), fontsize=7.5, color=_MUTED, va="bottom", linespacing=1.4)
        figure.savefig(path, metadata={"Software": None})


def _panel(axes: Axes, result: Result, shape: Shape, rows: tuple[Row, ...], limit: float) -> None:
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        ours = row.contender.family == "ours"
        weight = "bold" if ours else "normal"
        if row.stats is None or row.stats.throughput_ratio is None:
            reason = "missing" if (row.failure or "").startswith("missing") else "failed"
            axes.text(1.0 + 0.008 * limit, place, reason, va="center", fontsize=8.5, color="#D55E00", style="italic")
            continue
        ratio = row.stats.throughput_ratio
        axes.barh(place, ratio, height=0.72, color=_COLORS[row.contender.family], zorder=2)
        median = row.stats.median_ms
        time = f"{median:,.0f} ms" if median >= 10 else f"{median:.1f} ms"
        text = f"{ratio:.2f}×  ({time})" if row.peak_share is None else f"{ratio:.2f}×  ({time}, {row.peak_share:.0%} of peak)"
        # Labels of slower contenders are placed to the right of the dashed line, not across it.
        start = max(1.0, ratio) + 0.008 * limit
        axes.text(start, place, text, va="center", fontsize=8.5, fontweight=weight, zorder=4, bbox=_HALO)
    reference = result.reference(shape)
    labels = [row.contender.label + (" *" if row is reference else "") for row in rows]
    axes.set_yticks(list(places), labels)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.contender.family == "ours" else "normal")
    axes.axvline(1.0, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, limit)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    texts = f"{shape.batch} text{'s' if shape.batch > 1 else ''} of {shape.length} tokens"
    axes.set_title(texts, loc="left", fontsize=10, fontweight="bold", pad=5)
    axes.grid(axis="x", color="#E4E7EB", linewidth=0.8, zorder=0)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.tick_params(axis="x", labelsize=8, labelcolor=_MUTED)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _head(figure: Figure, result: Result, height: float) -> None:
    def at(inches: float) -> float:
        return 1 - inches / height

    tasks = len(result.candidate.tasks)
    figure.text(0.02, at(0.32), f"Throughput of {tasks} tasks on one trunk, longer is better", fontsize=13, fontweight="bold")
    figure.text(0.02, at(0.55), result.candidate.title, fontsize=9, color=_MUTED)
    families = [family for family in _COLORS if any(row.contender.family == family for row in result.rows)]
    handles = [Patch(color=_COLORS[family], label=_LEGEND[family]) for family in families]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.012, at(0.62)), ncols=len(handles), frameon=False, fontsize=9,
        handlelength=1.2, handleheight=0.9, columnspacing=1.8, handletextpad=0.6,
    )  # fmt: skip


def _foot(result: Result) -> str:
    rounds = max((len(row.times) for row in result.rows), default=0)
    least = min((len(row.times) for row in result.rows if row.times), default=0)
    span = f"{least} to {rounds}" if least != rounds else f"{rounds}"
    return (
        "fp32 unless stated otherwise. 1× (dashed) and *: the fastest eager PyTorch contender with the same drop.\n"
        f"Bars: median of paired ratios over {span} interleaved rounds. In brackets: median time of one batch, all tasks.\n"
        f"Of peak: time of the graph's matrix products at the rate of the fastest single product, {_peaks(result)}.\n"
        f"{textwrap.fill(result.machine.sentence(), _FOOT_LETTERS)}; {result.date:%Y-%m-%d}"
        + (f" – not idle: {found}" if (found := _load(result)) else "")
    )


def _load(result: Result) -> str:
    """Return how busy the machine was when the run began; empty if it was not."""
    if not result.machine.busy:
        return ""
    gpu = result.machine.gpu
    if gpu is not None:
        return f"the GPU was used to {gpu['utilization_percent']} % when the run began"
    return f"a load of {result.machine.load:g} when the run began"


def _peaks(result: Result) -> str:
    """Return the peak rate of each precision over all shapes, as text."""
    rates: dict[str, float] = {}
    for row in result.products:
        rates[row.gemm.precision] = max(rates.get(row.gemm.precision, 0.0), row.rate)
    return ", ".join(f"{precision} {rate / 1e9:,.0f} GFLOP/s" for precision, rate in rates.items())
