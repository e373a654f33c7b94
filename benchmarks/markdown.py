"""The README's table from a results file: python -m benchmarks.markdown benchmarks/results/FILE.jsonl."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["failure"]:
        return "failed" if row else "-"
    text = f"{row['median_ms']:,.0f} / {row['p95_ms']:,.0f} ms ({row['throughput_ratio']:.2f}x)"
    return f"**{text}**" if row["label"].startswith("ours") else text


def table(results: Path) -> str:
    """Median and 95th percentile per variant and shape, and in brackets the throughput against the fastest eager variant."""
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    shapes = list(dict.fromkeys((row["batch"], row["length"]) for row in rows))
    cells = {(row["label"], row["batch"], row["length"]): row for row in rows}
    lines = [
        "| batch x length | " + " | ".join(f"{batch} x {length}" for batch, length in shapes) + " |",
        "| --- |" + " ---: |" * len(shapes),
    ]
    for label in dict.fromkeys(row["label"] for row in rows):
        lines.append(f"| {label} | " + " | ".join(_cell(cells.get((label, *shape))) for shape in shapes) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
