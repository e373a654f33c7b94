"""The Pareto front as a PNG, drawn by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path

from exporter.advise.measurement_files import replace_bytes
from exporter.advise.result import Advice


def save_picture(advice: Advice, path: Path) -> bool:
    """Draw the share of its metric that the task with the largest loss keeps, against the time of a call.

    Args:
        advice: the advice.
        path: the file to write.

    Returns:
        Whether matplotlib is installed; nothing is drawn without it.

    Raises:
        ExportError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [1e3 * point.seconds for point in advice.front]
    kept = [100 * (1 - point.loss) for point in advice.front]
    # By descending time: what can be kept within a time is what the next faster point keeps.
    axes.step(times, kept, where="pre", color="#9ab3c9", linewidth=1)
    axes.plot(times, kept, "o", color="#2f6690", markersize=4, label="Pareto front")
    for point in advice.uniform:
        place = 1e3 * point.seconds, 100 * (1 - point.loss)
        axes.annotate(
            f"n={next(iter(point.combination.drops.values()))}",
            place,
            (4, -9),
            textcoords="offset points",
            fontsize=7,
            color="#777777",
        )
    axes.plot(
        [1e3 * point.seconds for point in advice.uniform],
        [100 * (1 - point.loss) for point in advice.uniform],
        "x",
        color="#777777",
        markersize=5,
        label="all tasks at one drop n",
    )
    nearest = 1e3 * advice.nearest.seconds
    share = 100 * (1 - advice.nearest.loss)
    label = f"{'chosen' if advice.chosen else 'nearest, not chosen'}: {nearest:.2f} ms, {share:.1f} %"
    axes.plot(nearest, share, "*", color="#d1495b", markersize=14, label=label)
    axes.set_xlabel(f"milliseconds per call of {advice.shape[0]} x {advice.shape[1]} tokens, all tasks")
    axes.set_ylabel("% of its metric that the worst task keeps")
    axes.margins(x=0.07)
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    replace_bytes(path, content.getvalue())
    return True
