"""Measured process of `benchmarks.runtime_costs DIR memory`.

The process loads variants, runs each once, prints "ready" and waits for a line. It then prints its memory as JSON and waits for
another line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import runtime
from benchmarks.options import cores
from runtime import Options
from runtime.ort.node_counts import example_feeds


def main(folder: str, variants: str, way: str, cache: str) -> None:
    """Load and run the variants, and print the memory.

    Args:
        folder: folder of the bundle.
        variants: "one" (the lowest drop) or "all".
        way: "own", "shared" or "cached" packed weights.
        cache: cache folder for "cached".
    """
    before = _memory()
    options = Options(share_weights=way != "own", cache=cache if way == "cached" else None, threads=cores())
    drops = runtime.bundle.read_manifest(folder).drops
    predictor = runtime.load(folder, provider="cpu", drop=min(drops) if variants == "one" else None, options=options)
    for drop in predictor.drops:
        predictor.run(example_feeds(predictor.manifest, 1, 128), drop=drop)
    print("ready", flush=True)
    sys.stdin.readline()
    after = _memory()
    print(json.dumps({name: (after[name] - before[name]) // 1024 for name in after}), flush=True)
    sys.stdin.readline()  # other processes may still be measuring


def _memory() -> dict[str, int]:
    """Return memory in kB: PSS divides shared pages among processes; anonymous pages cannot be discarded and read again."""
    path = Path("/proc/self/smaps_rollup")
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise SystemExit(
            f"the memory of processes that share pages is measured on Linux only: {path}: {error.strerror}"
        ) from error
    lines = dict(line.split(":") for line in text.splitlines()[1:])
    return {"pss_mb": int(lines["Pss"].split()[0]), "anonymous_mb": int(lines["Anonymous"].split()[0])}


if __name__ == "__main__":
    main(*sys.argv[1:])
