"""Markdown tables from a results file: `python -m benchmarks.markdown_tables benchmarks/results/FILE.jsonl`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import exit_status


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["failure"]:
        return "-" if row is None else "missing" if row["failure"].startswith("missing") else "failed"
    text = f"{_shown(row['median_ms'])} / {_shown(row['p95_ms'])} ms ({row['throughput_ratio']:.2f}x)"
    return f"**{text}**" if row["label"].startswith("ours") else text


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 10 else f"{milliseconds:.2f}"


def _share(row: dict[str, Any] | None) -> str:
    return "-" if row is None or row["peak_share"] is None else f"{100 * row['peak_share']:.0f} %"


def table(results: Path) -> str:
    """Return the table of times: median, 95th percentile, in brackets the throughput against the fastest eager contender."""
    return _table(results, _cell, lambda _: True)


def shares(results: Path) -> str:
    """Return the table of peak fractions: for each of our contenders and shapes, the fraction of the machine's peak rate."""
    return _table(results, _share, lambda row: row["peak_share"] is not None)


def _table(results: Path, cell: Callable[[dict[str, Any] | None], str], wanted: Callable[[dict[str, Any]], bool]) -> str:
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in lines if "variant" in row and wanted(row)]
    shapes = list(dict.fromkeys((row["batch"], row["length"]) for row in rows))
    cells = {(row["label"], row["batch"], row["length"]): row for row in rows}
    table = [
        "| batch x length | " + " | ".join(f"{batch} x {length}" for batch, length in shapes) + " |",
        "| --- |" + " ---: |" * len(shapes),
    ]
    for label in dict.fromkeys(row["label"] for row in rows):
        table.append(f"| {label} | " + " | ".join(cell(cells.get((label, *shape))) for shape in shapes) + " |")
    return "\n".join(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.markdown_tables", description="Print tables in Markdown.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a results file that `python -m benchmarks` wrote")
    options = parser.parse_args(arguments)
    print(table(options.file), shares(options.file), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
