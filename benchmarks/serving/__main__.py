"""Load test: `python -m benchmarks.serving --texts DIR`.

Requests of one text each arrive at random times (Poisson), whether or not earlier ones have been answered. Each asks one or
several of the tasks. All candidates stand behind the batcher of `runtime.serving` and take the same tokenizer, batches and
cores; each runs in its own process.
Loads are bisected: the result is the highest one at which 95 % of the requests are answered within
the objective, counted from their scheduled arrival.

The texts are those of `python -m training.texts DIR`. A run that was stopped goes on where it was: a line of the results file
is one candidate at one setting.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import current_machine
from benchmarks.options import cores
from benchmarks.serving.engines import CANDIDATES, create
from benchmarks.serving.plot import plot
from benchmarks.serving.tables import Row, markdown, read
from benchmarks.serving.traffic import highest, read_texts, requests, search
from exporter.cli.parser import Parser
from runtime.serving.batcher import Batcher, Batching
from runtime.serving.limits import Limits

_SMALL = {"layers": 2, "hidden": 64, "tasks": 3, "drop": 1, "slots": 2, "files": 2}
_BASE = {"layers": 12, "hidden": 768, "tasks": 64, "drop": 5, "slots": 64, "files": 8}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(asyncio.run(_one(options))), flush=True)
        return 0
    if unknown := [key for key in options.candidates.split(",") if key not in CANDIDATES]:
        print(f"error: --candidates: expected some of {', '.join(CANDIDATES)}, found {', '.join(unknown)}", file=sys.stderr)
        return 2
    if not list(options.texts.glob("*.jsonl")):
        print(f"error: {options.texts}: expected test sets; write them with `python -m training.texts DIR`", file=sys.stderr)
        return 2
    settings = {**(_SMALL if options.small else _BASE), "seed": options.seed}
    _python("-m", "benchmarks.serving.prepare", str(options.folder), json.dumps(settings))
    path = _results(options, settings)
    ready = {(row.candidate, row.tasks, row.per_text, row.repeats) for row in read(path)}
    lists = (options.candidates.split(","), options.tasks, options.per_text, options.repeats)
    for setting in itertools.product(*lists):
        if setting in ready:
            continue
        key, tasks, per_text, repeats = setting
        print(f"{CANDIDATES[key].label}: {tasks} task(s), {per_text} per text, {repeats:.0%} repeated", file=sys.stderr)
        own = ["--one", key, "--tasks", str(tasks), "--per-text", str(per_text), "--repeats", str(repeats)]
        for name in ("texts", "folder", "seconds", "objective", "threads", "seed"):
            own += [f"--{name}", str(getattr(options, name))]
        line = _python("-m", "benchmarks.serving", *own).splitlines()[-1]
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "row", **json.loads(line)}) + "\n")
    print(markdown(read(path)))
    print(f"wrote {path} and {plot(path)}")
    return 0


async def _one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one candidate at one setting, in this process."""
    (tasks,), (per_text,), (repeats,) = options.tasks, options.per_text, options.repeats
    objective = options.objective / 1e3
    served, names, more = create(options.one, options.folder, tasks, options.threads, objective)
    batcher = Batcher(served, Batching(), Limits())
    given = requests(read_texts(options.texts), names, per_text, repeats, options.seed)
    points = await search(batcher, given, options.seconds, objective)
    row = Row(
        candidate=options.one,
        tasks=len(names),
        per_text=per_text,
        repeats=repeats,
        objective_ms=options.objective,
        load=highest(points),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        points=points,
        more=more,
    )
    return dataclasses.asdict(row)


def _results(options: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """Return the file of today's results, with its first line."""
    options.output.mkdir(parents=True, exist_ok=True)
    path: Path = options.output / f"serving-{time.strftime('%Y%m%d')}.jsonl"
    if not path.exists():
        machine = dataclasses.asdict(current_machine(options.threads))
        head = {"kind": "run", **settings, "batching": dataclasses.asdict(Batching()), "seconds": options.seconds}
        path.write_text(json.dumps({**head, "machine": machine}) + "\n", encoding="utf-8")
    return path


def _python(*arguments: str) -> str:
    """Run Python with these arguments, and return its standard output; its errors are shown."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def _parser() -> Parser:
    def numbers(kind: type) -> Any:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = Parser("python -m benchmarks.serving", __doc__)
    add = parser.add_argument
    add("--texts", type=Path, required=True, metavar="DIR", help="folder that `python -m training.texts` wrote")
    add("--folder", type=Path, default=Path("serving-models"), metavar="DIR", help="exports; kept. Default serving-models")
    add("--candidates", default=",".join(CANDIDATES), metavar="KEY,…", help=f"default all: {', '.join(CANDIDATES)}")
    add("--tasks", type=numbers(int), default=[64], metavar="N,…", help="numbers of tasks; default 64")
    add("--per-text", type=numbers(int), default=[1], metavar="N,…", help="tasks of a request; default 1")
    add("--repeats", type=numbers(float), default=[0.0], metavar="SHARE,…", help="shares of repeated texts; default 0")
    add("--objective", type=float, default=50.0, metavar="MS", help="95 %% of the latencies in ms; default 50")
    add("--seconds", type=float, default=6.0, metavar="S", help="seconds per load; default 6")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of all candidates; default all cores")
    add("--small", action="store_true", help="a tiny model, to see whether everything works")
    add("--seed", type=int, default=0, metavar="N", help="seed of weights and requests; default 0")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="default benchmarks/results")
    add("--one", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
