"""Benchmark of tasks in slots: the graph with slots against the routed graph, and what adding tasks costs a running predictor.

`python -m benchmarks.hot_tasks` uses a randomly initialized BERT with bottleneck adapters. The outputs of both graphs are
compared first; then they are timed in one run of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

import runtime
from benchmarks.checks import tolerance_of
from benchmarks.command import exit_status
from benchmarks.contender import Call, Feeds, MismatchError, max_difference
from benchmarks.machine import current_machine
from benchmarks.models import random_bert
from benchmarks.options import Shape, add_device, random_bert_parser, target_of
from benchmarks.results_file import keep_earlier, rounds_lines
from benchmarks.rounds import measure, paired_ratio
from exporter import export
from exporter.verify.random_inputs import make_inputs
from runtime.bundle import MODEL, slots_file
from runtime.slots.layout import own_task_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    target = target_of(options, parser)
    machine = current_machine(options.threads)
    torch.set_num_threads(options.threads)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            candidate = random_bert(options.layers, options.hidden, options.tasks, options.drop, options.seed)
            folder = Path(scratch) / "onnx"
            print("exporting …", file=sys.stderr, flush=True)
            export(candidate.model, output=folder, drop=options.drop, slots=options.slots, **target)
            feeds = [make_inputs(candidate.plan, shape.batch, shape.length, options.seed) for shape in options.shapes]
            found: dict[str, Any] = {
                "command": options.command,
                "model": candidate.title,
                "slots": options.slots,
                "rounds": options.rounds,
            }
            found |= {"device": options.device, "precision": options.precision}
            found["machine"] = asdict(machine)
            found |= _measured(folder, candidate.tasks, list(zip(options.shapes, feeds, strict=True)), options)
        path = Path(options.output) / f"hot-tasks-{time.strftime('%Y%m%d')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_earlier(path)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({key: value for key, value in found.items() if key not in ("machine", "lines")}, indent=1))
        print(f"wrote {path}")

    return exit_status(work)


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("hot_tasks", __doc__, "1x128,8x32", 15)
    parser.add_argument("--tasks", type=int, default=8, metavar="N", help="tasks of the bundle; default 8")
    parser.add_argument("--drop", type=int, default=5, metavar="N", help="layers without adapters; default 5")
    parser.add_argument("--slots", type=int, default=64, metavar="N", help="slots of the graph; default 64")
    parser.add_argument("--registered", type=int, default=1000, metavar="N", help="tasks added for the memory; default 1000")
    parser.add_argument("--looked-up", type=int, default=10_000, metavar="N", help="tasks added for look-ups; default 10000")
    add_device(parser)
    return parser


def _measured(
    folder: Path, tasks: Sequence[str], shapes: Sequence[tuple[Shape, Feeds]], options: argparse.Namespace
) -> dict[str, Any]:
    predictor = runtime.load(folder, provider=options.device, threads=options.threads, verify=False)
    predictor.prepare()
    files = [folder / own_task_file(slots_file(MODEL), number) for number in range(len(tasks))]
    for name, file in zip(tasks, files, strict=True):
        predictor.add_task(f"{name} added", file)
    times = {str(shape): _graphs(predictor, tasks, shape, feeds, options) for shape, feeds in shapes}
    found: dict[str, Any] = {"graphs": [_graph_row(shape, own) for shape, own in times.items()]}
    found["lines"] = rounds_lines(times, "routed")
    found["file_mb"] = files[0].stat().st_size / 1e6
    found["add_task_ms"] = _times(lambda: predictor.add_task("new", files[0]), lambda: predictor.remove_task("new"))
    found["calls"] = _in_flight(predictor, tasks, shapes[0][1], files)
    found["memory"] = _memory(predictor, files, shapes[0][1], options)
    found["look_up"] = _look_up(predictor, files, options)
    return found


def _graphs(
    predictor: runtime.Predictor, tasks: Sequence[str], shape: Shape, feeds: Feeds, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of the graph with slots and of the routed one in each round, another task for each row."""
    names = [tasks[row % len(tasks)] for row in range(shape.batch)]
    added = [f"{name} added" for name in names]
    calls: dict[str, Call] = {
        "routed": lambda: predictor.run_routed(feeds, names),
        "slots": lambda: predictor.run_routed(feeds, added),
    }
    difference = max_difference(calls["slots"](), calls["routed"]())
    if not difference <= tolerance_of(options.precision):
        raise MismatchError(f"the graph with slots differs at {shape} by {difference:.1e}: nothing was written")
    return measure(calls, options.rounds, options.seed, lambda _: None)


def _graph_row(shape: str, times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    medians = {f"{name}_ms": 1e3 * statistics.median(own) for name, own in times.items()}
    return {"shape": shape, **medians, "ratio": paired_ratio(times["slots"], times["routed"])}


def _times(call: Callable[[], object], undo: Callable[[], object]) -> dict[str, float]:
    times = []
    for _ in range(30):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
        undo()
    return {"median": statistics.median(times), "largest": max(times)}


def _in_flight(predictor: runtime.Predictor, tasks: Sequence[str], feeds: Feeds, files: Sequence[Path]) -> dict[str, float]:
    """Times of calls on an otherwise idle predictor, and while another thread adds, replaces and removes a task."""
    rows = len(next(iter(feeds.values())))
    names = [f"{tasks[row % len(tasks)]} added" for row in range(rows)]

    def calls(count: int) -> list[float]:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            predictor.run_routed(feeds, names)
            times.append(1e3 * (time.perf_counter() - started))
        return times

    calls(5)
    quiet, done, changes = calls(60), threading.Event(), [0]

    def change() -> None:
        while not done.wait(0.05):
            predictor.add_task("coming", files[0])
            predictor.replace_task("coming", files[-1])
            predictor.remove_task("coming")
            changes[0] += 3

    thread = threading.Thread(target=change)
    thread.start()
    busy = calls(60)
    done.set()
    thread.join()
    return {
        "quiet_median_ms": statistics.median(quiet),
        "quiet_largest_ms": max(quiet),
        "median_ms": statistics.median(busy),
        "largest_ms": max(busy),
        "changes_in_total": changes[0],
    }


def _memory(predictor: runtime.Predictor, files: Sequence[Path], feeds: Feeds, options: argparse.Namespace) -> dict[str, float]:
    """Memory with all slots in use, and after a call of each of many more tasks."""
    one = {name: array[:1] for name, array in feeds.items()}
    for number in range(options.registered):
        predictor.add_task(f"many {number}", files[number % len(files)])
    for number in range(options.slots):
        predictor.run_routed(one, [f"many {number}"])
    full = _resident()
    started = time.perf_counter()
    for number in range(options.slots, options.registered):
        predictor.run_routed(one, [f"many {number}"])
    seconds = time.perf_counter() - started
    after = _resident()
    for number in range(options.registered):
        predictor.remove_task(f"many {number}")
    return {
        "tasks": options.registered,
        "full_slots_mb": full,
        "all_tasks_mb": after,
        "ratio": after / full,
        "call_with_eviction_ms": 1e3 * seconds / max(1, options.registered - options.slots),
    }


def _look_up(predictor: runtime.Predictor, files: Sequence[Path], options: argparse.Namespace) -> dict[str, float]:
    predictor.add_task("first", files[0])

    def microseconds() -> float:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(200):
                predictor.entries(["first"])
            times.append((time.perf_counter() - started) / 200)
        return 1e6 * statistics.median(times)

    few = microseconds()
    for number in range(options.looked_up):
        predictor.add_task(f"more {number}", files[number % len(files)])
    return {"tasks": options.looked_up, "few_us": few, "many_us": microseconds()}


def _resident() -> float:
    """Resident memory of this process in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


if __name__ == "__main__":
    sys.exit(main())
