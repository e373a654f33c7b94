"""Tables and plots of a folder of results, made from its files only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.intervals import interval
from benchmarks.measured import Measured, Results, read_results

_INK, _MUTED, _OURS = "#1F2328", "#6A737D", "#0072B2"
_LINE_INCHES, _GROUP_INCHES, _DPI = 0.24, 0.5, 150


def write_report(folder: Path) -> list[Path]:
    """Write `folder`/report.md and a picture per benchmark, and return the files.

    Raises:
        ExportError: the folder has no results with rounds.
    """
    results = read_results(folder)
    report = folder / "report.md"
    pictures = {benchmark: folder / f"{path.stem}-ratios.png" for benchmark, path in results.files.items()}
    for benchmark, picture in pictures.items():
        _plot(_of(results, benchmark), benchmark, picture)
    parts = ["# Results", "", "Times relative to the reference of each group, with the 95 % interval over the rounds."]
    for benchmark, path in results.files.items():
        machine = results.machines[benchmark]
        gpu = machine.get("gpu")
        where = f"{gpu['name'] if gpu else machine['cpu']}, {machine['threads']} threads, load {machine['load']}"
        parts += ["", f"## {benchmark}", "", f"{where}; [{path.name}]({path.name}), [plot]({pictures[benchmark].name})", ""]
        parts.append(markdown(_of(results, benchmark)))
    report.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return [report, *pictures.values()]


def _of(results: Results, benchmark: str) -> list[Measured]:
    return [row for row in results.rows.values() if row.benchmark == benchmark]


def markdown(rows: Sequence[Measured]) -> str:
    """Return a Markdown table with a line per call."""
    lines = ["| group | call | rounds | median | relative to the reference |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        found = interval(row.ratios)
        ratio = "reference" if row.call == row.reference else f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
        median = statistics.median(row.times_ms)
        lines.append(f"| {row.group} | {row.call} | {len(row.times_ms)} | {median:,.4g} ms | {ratio} |")
    return "\n".join(lines)


def _plot(rows: Sequence[Measured], benchmark: str, path: Path) -> None:
    groups = list(dict.fromkeys(row.group for row in rows))
    panels = [[row for row in rows if row.group == group] for group in groups]
    heights = [len(panel) * _LINE_INCHES + _GROUP_INCHES for panel in panels]
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8.5, "text.color": _INK, "axes.edgecolor": _MUTED}):
        figure = Figure(figsize=(9.0, sum(heights) + 0.6), dpi=_DPI, facecolor="white", layout="constrained")
        title = f"{benchmark}: time relative to the reference"
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        figure.supxlabel("further left is faster; lines: 95 % intervals over the rounds", fontsize=7.5, color=_MUTED)
        every = figure.subplots(len(panels), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
        for axes, panel, group in zip(every, panels, groups, strict=True):
            for place, row in enumerate(panel):
                found = interval(row.ratios)
                is_reference = row.call == row.reference
                axes.plot(
                    [found.low, found.high], [place, place], color=_MUTED if is_reference else _OURS, linewidth=2.2, zorder=2
                )
                axes.plot(found.median, place, "o", color=_MUTED if is_reference else _OURS, markersize=5, zorder=3)
                text = "reference" if is_reference else f"{found.median:.2f}"
                axes.annotate(text, (found.high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
            axes.set_yticks(range(len(panel)), [row.call for row in panel])
            axes.set_ylim(len(panel) - 0.4, -0.6)
            axes.axvline(1.0, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            axes.set_title(group, loc="left", fontsize=9, fontweight="bold")
            axes.grid(axis="x", color="#E4E7EB", linewidth=0.8, zorder=0)
            axes.tick_params(length=0)
            for side in ("top", "right", "bottom"):
                axes.spines[side].set_visible(False)
        every[0].set_xlim(left=0)
        every[0].margins(x=0.12)
        figure.savefig(path, metadata={"Software": None})
