"""Load test: requests for different tasks, at rising load, until too many are late.

Requests of one text each arrive at random times (Poisson), whether or not earlier ones have been answered. Each asks one or
several of the tasks. All candidates stand behind the batcher of `runtime.serving` and take the same tokenizer, batches and
cores; each runs in its own process, and its predictions are compared with single-task PyTorch first. Loads are bisected: the
result is the highest one at which 95 % of the requests are answered within the objective, counted from their scheduled
arrival. A candidate that fails or takes too long is a row with its reason.

Without --texts, texts are random words, as long as those of the example's test sets. A run that was stopped goes on where it
was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import current_gpu
from benchmarks.machine import current_machine
from benchmarks.options import DEVICES, command_of, cores
from benchmarks.serving.candidates import CANDIDATES, Candidate
from benchmarks.serving.one import Job
from benchmarks.serving.plot import plot
from benchmarks.serving.sizes import SIZES
from benchmarks.serving.tables import Results, Row, Setting, markdown, read, row_of, write
from runtime.command_options import CommandParser
from runtime.serving.batcher import Batching

_GPU_OBJECTIVES = (10.0, 50.0)
_EPILOG = """\
exit status: 0 done, or stopped by --seconds: the same command continues; 2 invalid arguments, or the models cannot be exported
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.command = command_of(parser.prog, sys.argv[1:] if arguments is None else arguments)
    options.candidates = options.candidates or [key for key, each in CANDIDATES.items() if options.device in each.devices]
    if unknown := [key for key in options.candidates if key not in CANDIDATES]:
        parser.error(f"--candidates: expected some of {', '.join(CANDIDATES)}, found {', '.join(unknown)}")
    if others := [key for key in options.candidates if options.device not in CANDIDATES[key].devices]:
        parser.error(f"--candidates: {', '.join(others)}: not with --device {options.device}")
    if options.texts is not None and not list(options.texts.glob("*.jsonl")):
        parser.error(f"--texts {options.texts}: expected test sets; write them with `python -m training.texts DIR`, or omit it")
    start, size = time.monotonic(), SIZES[options.size]
    models = options.folder / options.size
    needed = ",".join(dict.fromkeys(["fp32", *(CANDIDATES[key].bundle for key in options.candidates)]))
    command = [sys.executable, "-m", "benchmarks.serving.prepare", str(models), options.size, str(options.seed), needed]
    print(f"models in {models} …", file=sys.stderr, flush=True)
    if status := subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        print(f"error: the models were not exported (exit status {status}, reason above)", file=sys.stderr)
        return 2
    objectives = sorted(options.objectives or (size.objectives if options.device == "cpu" else _GPU_OBJECTIVES))
    path, results = _open(options, objectives)
    wanted = [
        Setting(*each) for each in itertools.product(options.candidates, options.tasks, options.per_text, options.repeats)
    ]
    for setting in wanted:
        if setting.tasks > size.tasks and not _takes_more(CANDIDATES[setting.candidate]):
            what = f"{setting.tasks} tasks are not measured: it takes the {size.tasks} that are exported"
            print(f"{CANDIDATES[setting.candidate].label}: {what}", file=sys.stderr, flush=True)
            continue
        if setting in [row.setting for row in results.rows]:
            continue
        if time.monotonic() - start > options.seconds:
            print("not done; the same command continues", file=sys.stderr)
            write(path, results)
            return 0
        what = f"{setting.tasks} task(s), {setting.per_text} per text, {setting.repeats:.0%} repeated"
        print(f"{CANDIDATES[setting.candidate].label}: {what} …", file=sys.stderr, flush=True)
        texts = None if options.texts is None else str(options.texts)
        job = Job(setting, objectives, options.load_seconds, options.threads, options.seed, str(models), texts, options.device)
        results = dataclasses.replace(results, rows=(*results.rows, _run(job, options.limit)))
        write(path, results)
    results = dataclasses.replace(results, head={**results.head, "complete": True})
    write(path, results)
    print(markdown(results))
    print(f"wrote {path} and {plot(path)}")
    return 0


def _takes_more(candidate: Candidate) -> bool:
    """Return whether a candidate takes more tasks than are exported."""
    return candidate.adds or not candidate.ours


def _run(job: Job, limit: float) -> Row:
    """Measure in a separate process; one that fails, or takes more seconds than `limit`, is a row with the reason."""
    command = [sys.executable, "-m", "benchmarks.serving.one", json.dumps(dataclasses.asdict(job))]
    try:
        done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=limit)
    except subprocess.TimeoutExpired:
        reason = f"not done after {limit:g} s"
    else:
        if done.returncode == 0:
            return row_of(json.loads(done.stdout.splitlines()[-1]))
        sys.stderr.write(done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        reason = lines[-1].strip()[:300] if lines and done.returncode > 0 else ended
    print(f"failed: {reason}", file=sys.stderr, flush=True)
    nothing: list[float | None] = [None] * len(job.objectives)
    return Row(
        **dataclasses.asdict(job.setting), loads=nothing, peak_mb=None, difference=None, points=(), more={}, reason=reason
    )


def _open(options: argparse.Namespace, objectives: list[float]) -> tuple[Path, Results]:
    """Return the file of today's results of a size, and what it holds."""
    options.output.mkdir(parents=True, exist_ok=True)
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    path: Path = options.output / f"serving-{options.size}{suffix}-{time.strftime('%Y%m%d')}.jsonl"
    head: dict[str, Any] = {
        "size": options.size,
        "device": options.device,
        "model": dataclasses.asdict(SIZES[options.size]),
        "objectives": objectives,
        "load_seconds": options.load_seconds,
        "texts": "made" if options.texts is None else "test sets",
        "seed": options.seed,
        "batching": dataclasses.asdict(Batching()),
    }
    machine = current_machine(options.threads, current_gpu() if options.device == "cuda" else None)
    # A file has the rows of several commands, each with other candidates or settings.
    if path.exists() and all(read(path).head.get(key) == json.loads(json.dumps(value)) for key, value in head.items()):
        found = read(path)
        commands = dict.fromkeys((*found.head.get("commands", ()), options.command))
        return path, dataclasses.replace(found, head={**found.head, "commands": list(commands)})
    more = {"commands": [options.command], "complete": False, "machine": dataclasses.asdict(machine)}
    return path, Results({**head, **more}, ())


def _parser() -> CommandParser:
    def numbers(kind: type, least: float) -> Any:
        def parse(text: str) -> list[Any]:
            found = [kind(part) for part in text.split(",")]
            if any(not each >= least for each in found):
                raise argparse.ArgumentTypeError(f"expected numbers of at least {least:g}, found {text}")
            return found

        parse.__name__ = "list of numbers"
        return parse

    parser = CommandParser("python -m benchmarks.serving", __doc__, _EPILOG)
    add, every = parser.add_argument, ",".join(CANDIDATES)
    of_device = "candidates; default: all of the device"
    add("--size", choices=SIZES, default="small", help="size of the model; tiny shows whether everything works; default small")
    add("--device", choices=DEVICES, default="cpu", help="where all candidates compute; default cpu")
    add("--texts", type=Path, metavar="DIR", help="test sets, which `python -m training.texts DIR` wrote")
    add(
        "--folder",
        type=Path,
        default=Path("serving-models"),
        metavar="DIR",
        help="folder of the models, which are kept; default serving-models",
    )
    add("--candidates", type=lambda text: text.split(","), metavar="KEY,…", help=f"{of_device}, of {every}")
    add("--tasks", type=numbers(int, 1), default=[64], metavar="N,…", help="numbers of tasks; default 64")
    add("--per-text", type=numbers(int, 1), default=[1], metavar="N,…", help="tasks of a request; default 1")
    add("--repeats", type=numbers(float, 0), default=[0.0], metavar="SHARE,…", help="shares of repeated texts; default 0")
    add(
        "--objectives",
        type=numbers(float, 1),
        metavar="MS,…",
        help="limits in ms for 95 %% of the latencies; default: those of --size",
    )
    add("--load-seconds", type=float, default=5.0, metavar="S", help="seconds per load; default 5")
    add("--limit", type=float, default=280.0, metavar="S", help="most seconds for a candidate at a setting; default 280")
    add("--seconds", type=float, default=float("inf"), metavar="S", help="measure nothing more after this time")
    add("--threads", type=int, default=cores(), metavar="N", help="threads of all candidates; default: all cores")
    add("--seed", type=int, default=0, metavar="N", help="seed of weights and requests; default 0")
    add(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="folder for the results; default benchmarks/results",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
