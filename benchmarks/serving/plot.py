"""Plot of the latency over the load, and of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.serving.candidates import CANDIDATES
from benchmarks.serving.tables import Results, Row, read

_OURS, _OTHERS, _INK, _MUTED = "#0072B2", "#D55E00", "#1F2328", "#6A737D"
# The same weights in fp32 and rounded; the rest are variants of these
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_LINE = 0.055  # between two names, as a share of the height


def plot(path: Path) -> Path:
    """Write a PNG next to a results file: p95 over load, with one task per text and the most tasks that all candidates have.

    Returns:
        Path of the plot.
    """
    results = read(path)
    rows = _shown(results)
    figure = Figure(figsize=(11, 6), dpi=150, facecolor="white")
    latency = figure.add_axes((0.065, 0.11, 0.36, 0.73))
    memory = figure.add_axes((0.79, 0.11, 0.17, 0.73))
    objective = max(results.objectives)
    _latencies(latency, rows, results, objective)
    _memories(memory, rows)
    tasks = max((row.tasks for row in rows), default=0)
    figure.text(0.02, 0.945, f"{tasks} tasks, one per text: how many requests per second?", fontsize=13, fontweight="bold")
    machine = results.head["machine"]
    threads, gpu = machine["threads"], machine.get("gpu")
    device = f"{threads} CPU core{'s' * (threads > 1)}" if gpu is None else gpu["name"]
    where = f"{results.head['model']['title']}, {device}"
    figure.text(0.02, 0.895, f"{where}; blue: ours, orange: alternatives", fontsize=9.5, color=_MUTED)
    target = path.with_suffix(".png")
    figure.savefig(target, metadata={"Software": None})
    return target


def _shown(results: Results) -> list[Row]:
    plain = [row for row in results.rows if row.per_text == 1 and row.repeats == 0 and not row.reason]
    most = max((row.tasks for row in plain if not CANDIDATES[row.candidate].ours), default=0)
    found = [row for row in plain if row.tasks == most] or plain
    return sorted(found, key=lambda row: -(row.loads[-1] or 0))


def _latencies(axes: Any, rows: Sequence[Row], results: Results, objective: float) -> None:
    places = {}
    for ours, color in ((True, _OURS), (False, _OTHERS)):
        own = [row for row in rows if CANDIDATES[row.candidate].ours is ours]
        for number, row in enumerate(own):
            points = sorted((point for point in row.points if point.load), key=lambda point: point.load)
            style = {"color": color, "linestyle": _DASHES[number % len(_DASHES)], "alpha": 1 - 0.08 * number}
            axes.plot([p.load for p in points], [p.p95_ms for p in points], linewidth=1.8, marker="o", markersize=3, **style)
            places[row.candidate] = style
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min((point.p95_ms for row in rows for point in row.points), default=objective)
    axes.set_ylim(low / 1.3, objective * 5)
    for each in results.objectives:
        axes.axhline(each, color=_INK, linestyle=(0, (4, 3)), linewidth=0.9)
        axes.text(0.01, each * 1.05, f"objective: {each:g} ms", transform=axes.get_yaxis_transform(), fontsize=8.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("requests per second")
    axes.set_ylabel("95 % of the answers within, ms")
    axes.grid(color="#E4E7EB", linewidth=0.8)
    _hide(axes, ("top", "right"))
    axes.text(1.06, 1.0, f"requests/s within {objective:g} ms", transform=axes.transAxes, fontsize=8.5, color=_MUTED)
    for number, row in enumerate(rows):
        height = 0.95 - number * _LINE
        load = row.loads[-1]
        held = "none" if load is None else f"{load:.0f}" if load >= 10 else f"{load:.1f}"
        axes.plot([1.06, 1.14], [height] * 2, transform=axes.transAxes, clip_on=False, linewidth=1.8, **places[row.candidate])
        name = CANDIDATES[row.candidate].label
        color = places[row.candidate]["color"]
        axes.text(1.17, height, f"{held}", transform=axes.transAxes, fontsize=9, va="center", color=color, fontweight="bold")
        axes.text(1.28, height, name, transform=axes.transAxes, fontsize=9, va="center", color=color)


def _memories(axes: Any, rows: Sequence[Row]) -> None:
    """Bars in the order of the names, at their heights."""
    shown = [(row, row.memory_mb / 1e3) for row in rows if row.memory_mb is not None]
    most = max((each for _, each in shown), default=1.0)
    for number, (row, size) in enumerate(shown):
        height = 0.95 - number * _LINE
        color = _OURS if CANDIDATES[row.candidate].ours else _OTHERS
        axes.barh(height, size, height=0.6 * _LINE, color=color)
        axes.text(size + 0.02 * most, height, f"{size:.1f}", va="center", fontsize=8.5, color=color)
    axes.set_ylim(0, 1)
    axes.set_xlim(0, most * 1.18)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0, 1.0, "memory, GB", transform=axes.transAxes, fontsize=8.5, color=_MUTED)
    _hide(axes, ("top", "right", "bottom", "left"))


def _hide(axes: Any, sides: Sequence[str]) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)
