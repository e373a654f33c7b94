"""Benchmark of streams: `predict_iter` and the file command against one call of `predict`.

`python -m benchmarks.streams DIR` prints a JSON object: CPU seconds of each way, which other processes do not change; their
ratio to those of one call, in interleaved rounds; and the peak memory of processes that compute a tenth of the texts and all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import runtime
from benchmarks.command import exit_status
from benchmarks.machine import current_machine
from runtime.__main__ import main as run_command

_WORDS = ("film", "phone", "fast", "slow", "and", "of", "a", "team", "won", "game", "screen", "stocks", "fell", "today", "dull")
_LONGEST = 12  # words of a text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="folder written by `python -m exporter`")
    parser.add_argument("--texts", type=int, default=100_000, help="number of short texts; default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; default %(default)s")
    parser.add_argument("--task", help="only this task; default: all")
    parser.add_argument("--threads", type=int, default=1, help="threads; default %(default)s")
    options = parser.parse_args(arguments)
    tasks = None if options.task is None else [options.task]
    texts = _texts(options.texts)
    with tempfile.TemporaryDirectory() as scratch:
        small, large = (_write(Path(scratch), texts[:count]) for count in (options.texts // 10, options.texts))
        found = {"texts": options.texts, "threads": options.threads}
        found |= _speed(runtime.load(options.folder, provider="cpu", threads=options.threads), texts, tasks, large, options)
        for name, path in (("a tenth", small), ("all", large)):
            found[f"peak MB of {name}"] = _peak(_command(options, path))
    print(json.dumps(found | {"machine": dataclasses.asdict(current_machine(options.threads))}))
    return 0


def _texts(count: int) -> list[str]:
    rng = random.Random(0)  # noqa: S311 - no secret
    return [" ".join(rng.choices(_WORDS, k=rng.randint(1, _LONGEST))) for _ in range(count)]


def _write(folder: Path, texts: Sequence[str]) -> Path:
    path = folder / f"{len(texts)}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _command(options: argparse.Namespace, path: Path) -> list[str]:
    tasks = [] if options.task is None else ["--tasks", options.task]
    paths = ["--file", str(path), "--output", f"{path}.out", "--overwrite", "--quiet"]
    return [options.folder, "--provider", "cpu", "--threads", str(options.threads), *tasks, *paths]


def _speed(
    predictor: runtime.Predictor, texts: list[str], tasks: list[str] | None, path: Path, options: argparse.Namespace
) -> dict[str, Any]:
    def stream() -> None:
        for _ in predictor.predict_iter(texts, tasks):
            pass

    def file() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            run_command(_command(options, path))

    ways: dict[str, Callable[[], object]] = {
        "predict": lambda: predictor.predict(texts, tasks),
        "predict_iter": stream,
        "file": file,
    }
    predictor.predict(texts[:1_000], tasks)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, call in ways.items():
            started = time.process_time()
            call()
            times[name].append(time.process_time() - started)
    ratios = {
        f"{name} / predict": round(
            statistics.median(own / one for own, one in zip(times[name], times["predict"], strict=True)), 3
        )
        for name in ("predict_iter", "file")
    }
    return {f"CPU seconds of {name}": round(statistics.median(own), 2) for name, own in times.items()} | ratios


def _peak(arguments: list[str]) -> int:
    """Return the peak resident memory of a process that runs the command, in MB."""
    # Not ru_maxrss, which begins with the memory of the process that starts this one
    script = (
        "import re, sys; from pathlib import Path; from runtime.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, encoding="utf-8", check=True)
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(exit_status(main))
