"""Evaluate the bundled example's fusion with all members and with the k best of each layer, through exported graphs.

The members are chosen by their attention on training texts, and the accuracy is that on test texts. What is measured is kept,
so that the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

import runtime
from exporter import ExportError, export
from exporter.example import base_model_folder
from training.download import DownloadError, corpora
from training.quality.machine import description
from training.tasks import FUSION
from training.texts import read_task, write_task

CALIBRATION_TEXTS, TEST_TEXTS = 100, 1000
LAYERS = 6
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.quality.fusion_members", description=__doc__)
    parser.add_argument("results", type=Path, metavar="FILE", help="JSON lines to write, or to continue")
    parser.add_argument("--members", default="8,6,4,2,1", help="comma-separated numbers of members; default 8,6,4,2,1")
    parser.add_argument("--drops", default="0,3", help="comma-separated; default 0,3")
    parser.add_argument("--limit-seconds", type=float, metavar="S", help="begin no further export after this time")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "adapterdrop-training",
        help="folder of the corpora; default ~/.cache/adapterdrop-training",
    )
    options = parser.parse_args(arguments)
    members = _numbers(options.members, range(1, len(FUSION.members) + 1), "--members", parser)
    wanted = [(drop, kept) for drop in _numbers(options.drops, range(LAYERS), "--drops", parser) for kept in members]
    try:
        return _measure(options, wanted, corpora(options.cache))
    except (DownloadError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _numbers(text: str, allowed: range, option: str, parser: argparse.ArgumentParser) -> list[int]:
    if not all(part.isdecimal() and int(part) in allowed for part in text.split(",")):
        parser.error(f"{option} must be numbers from {allowed[0]} to {allowed[-1]}, found {text}")
    return [int(part) for part in text.split(",")]


def _measure(options: argparse.Namespace, wanted: Sequence[tuple[int, int]], corpus: Path) -> int:
    start = time.monotonic()
    rows = read_rows(options.results)
    missing = [each for each in wanted if each not in {(row["drop"], row["members"]) for row in rows}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, tests = (_texts(folder / split, corpus, split) for split in ("train", "test"))
        for done, (drop, kept) in enumerate(missing):
            if options.limit_seconds is not None and time.monotonic() - start > options.limit_seconds:
                print(f"{len(missing) - done} of {len(wanted)} graphs are left; run the same command again", flush=True)
                break
            rows.append(_row(folder / "onnx", calibration, tests, drop, kept))
            _write(options.results, rows)
    print(table(rows))
    return 0


def _texts(folder: Path, corpus: Path, split: Literal["train", "test"]) -> Path:
    folder.mkdir()
    limit = CALIBRATION_TEXTS if split == "train" else TEST_TEXTS
    write_task(folder, FUSION, corpus, AutoTokenizer.from_pretrained(base_model_folder()), limit, split)
    return folder / f"{FUSION.name}.jsonl"


def _row(output: Path, calibration: Path, tests: Path, drop: int, kept: int) -> Row:
    report = export(
        tasks=[FUSION.name],
        drop=drop,
        output=output,
        keep_fused=kept,
        calibration=calibration,
        overwrite=True,
    )
    examples = read_task(tests)
    predicted = runtime.load(output, provider="cpu").predict([each["text"] for each in examples])[FUSION.name]
    right = [own.label == each["label"] for own, each in zip(predicted, examples, strict=True)]
    names: list[str] = [name for each in report.variants[0].fusions for own in (each.kept or {}).values() for name in own]
    return {
        "task": FUSION.name,
        "drop": drop,
        "members": kept,
        "accuracy": sum(right) / len(right),
        "difference": float(f"{max(row.max_rel_diff for row in report.parity):.1e}"),
        "kept": dict(Counter(names).most_common()),
        "nodes": report.graph.nodes,
        "bytes": report.graph.initializer_bytes,
        "texts": len(right),
        "calibration_texts": CALIBRATION_TEXTS,
    }


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results file; none if it does not exist."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [{name: value for name, value in line.items() if name != "kind"} for line in lines if line["kind"] == "row"]


def _write(path: Path, rows: Sequence[Row]) -> None:
    head = {"kind": "run", "command": "python -m training.quality.fusion_members FILE", **description()}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in (head, *({"kind": "row", **row} for row in rows)))
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def table(rows: Sequence[Row]) -> str:
    """Return the accuracy by members and drop, and the bytes of the graph without a drop."""
    drops = sorted({row["drop"] for row in rows})
    found = {(row["members"], row["drop"]): row for row in rows}
    lines = [
        f"| {FUSION.name} | " + " | ".join(f"accuracy, n = {drop}" for drop in drops) + " | weights, n = 0 |",
        "| --- |" + " ---: |" * (len(drops) + 1),
    ]
    for members in sorted({row["members"] for row in rows}, reverse=True):
        cells = [f"{100 * found[members, drop]['accuracy']:.1f} %" if (members, drop) in found else "-" for drop in drops]
        size = f"{found[members, 0]['bytes'] / 1e6:.1f} MB" if (members, 0) in found else "-"
        name = "all 8 members" if members == len(FUSION.members) else f"{members} kept"
        lines.append(f"| {name} | {' | '.join(cells)} | {size} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
