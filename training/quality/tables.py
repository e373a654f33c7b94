"""Markdown tables of a results file of the comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.quality.methods import SPECIALISED
from training.quality.plot import plot
from training.quality.results import Results, read_results
from training.quality.scores import PUBLISHED, Scores, Spread

_SHOWN = (0, 2, 5, 8, 11, 12)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return _percent(spread.mean)
    return f"{_percent(spread.mean)} ({_percent(spread.low)} to {_percent(spread.high)})"


def by_drop(scores: Scores, precision: str) -> str:
    """Return the accuracy of each task and method at some drops in percent: mean over seeds, lowest to highest."""
    drops = [drop for drop in _SHOWN if drop in scores.drops_of(precision)]
    lines = [
        f"| {precision} | trained | {' | '.join(f'n = {drop}' for drop in drops)} |",
        "| --- | --- |" + " ---: |" * len(drops),
    ]
    for task in scores.tasks:
        for method in scores.methods:
            cells = [_cell(scores.score(task, method, precision, drop)) for drop in drops]
            lines.append(f"| {task} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def retained(scores: Scores) -> str:
    """Return the share of the score of standard adapters that is kept at n = 5, next to the paper's."""
    lines = [
        f"| trained | paper, n = {SPECIALISED} | " + " | ".join(scores.precisions) + " |",
        "| --- | ---: |" + " ---: |" * len(scores.precisions),
    ]
    for method in scores.methods:
        published = f"{PUBLISHED[method]} %" if method in PUBLISHED else "-"
        cells = []
        for precision in scores.precisions:
            spread, interval = scores.retained(method, precision, SPECIALISED), scores.interval(method, precision, SPECIALISED)
            if spread is None or interval is None:
                cells.append("-")
            else:
                cells.append(f"{_percent(spread.mean)} % ({_percent(interval[0])} to {_percent(interval[1])})")
        lines.append(f"| {method} | {published} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sharing(results: Results, scores: Scores) -> str:
    """Return parameters and scores of adapters that are shared across layers, next to those of standard ones.

    Empty unless both were trained.
    """
    counts = {
        method: {result["parameters"] for piece, result in results.adapters.items() if piece.method == method}
        for method in ("standard", "shared")
    }
    if not all(counts.values()):
        return ""
    (whole,), (one,) = counts["standard"], counts["shared"]
    lines = ["| adapter | parameters | " + " | ".join(scores.tasks) + " |", "| --- | ---: |" + " ---: |" * len(scores.tasks)]
    for method, number in (("standard", whole), ("shared", one)):
        cells = [_cell(scores.score(task, method, "fp32", 0)) for task in scores.tasks]
        fewer = "" if number == whole else f" ({100 * (1 - number / whole):.0f} % fewer)"
        lines.append(f"| {method} | {number:,}{fewer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def checks(results: Results, scores: Scores) -> str:
    """Return sentences on the comparison of the graphs with the library, and of the precisions with fp32."""
    sentences = []
    if differences := [row.difference for row in results.answers if row.difference is not None]:
        worst, count = max(differences), len(differences)
        sentences.append(
            f"Logits in fp32 and those of the library differ by at most {worst:.1e}, over {count} adapters and drops."
        )
    for precision in scores.precisions:
        agreement = scores.agreement(precision) if precision != "fp32" else None
        if agreement is not None:
            sentences.append(f"{_percent(agreement)} % of the predictions in {precision} are those in fp32.")
    return " ".join(sentences)


def page(results: Results) -> str:
    """Return all tables of the results."""
    scores = Scores(results)
    parts = [retained(scores), *(by_drop(scores, each) for each in scores.precisions), sharing(results, scores)]
    return "\n\n".join(filter(None, [*parts, checks(results, scores)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a results file, and draw its curves."""
    parser = argparse.ArgumentParser(prog="python -m training.quality.tables", description=main.__doc__)
    parser.add_argument("results", type=Path, metavar="FILE", help="a file of python -m training.quality.evaluate --results")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the curves")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.results)
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"expected a file of python -m training.quality.evaluate --results, found {options.results}: {error}")
    if not results.answers:
        parser.error(f"{options.results} has no predictions: run python -m training.quality.evaluate without --limit-seconds")
    print(page(results))
    if options.picture:
        plot(Scores(results), options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
