"""A benchmark with the command line of those of the suite that measure in rounds; it measures nothing.

python -m tests.helpers.tiny_benchmark --output DIR --folder DIR --seconds S --threads N
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    """Add a round; two are enough. Without any second, add none."""
    parser = argparse.ArgumentParser()
    for name in ("--output", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    if options.seconds == 0:
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "rounds.json"
    times = [*(json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []), 2.0]
    kept.write_text(json.dumps(times), encoding="utf-8")
    machine = {"cpu": "A", "threads": options.threads, "load": 0.1, "versions": {}}
    lines = [
        {"kind": "run", "machine": machine, "complete": len(times) == 2},
        {"kind": "rounds", "group": "1x8", "reference": "eager", "times_ms": {"eager": times, "ours": times}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (options.output / "tiny-20260101.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
