"""Soak test: many threads on one predictor for a long time.

`python -m benchmarks.soak DIR [--provider cpu] [--minutes 10] [--threads 16]` makes calls with random tasks and drops on
texts of a fixed pool. The predictions must equal those of the single texts, computed before the threads start. If the bundle
has a routed graph, some calls select a different task per text. Some calls are cancelled; some are invalid and must be
rejected. Memory, open files and threads are recorded 20 times: from the second to the last quarter of the run, memory must
not grow by more than --growth, and files and threads must not grow at all.

Exit status: 0 if all results are correct and nothing leaks, otherwise 1. The last line of standard output is a JSON object.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

import runtime
from benchmarks.command import exit_status
from benchmarks.machine import FLAVOURS, versions
from runtime.text.encode import CPU_LIMITS, TextEncoder

_POOL = 96
_MOST = 8  # maximum number of texts of a call
_READINGS = 20  # number of readings of memory, files and threads
_WORDS = ("the", "phone", "is", "fast", "and", "screen", "gorgeous", "but", "battery", "weak", "news", "of", "Berlin", "again")
_TOLERANCE = 1e-3  # for probabilities: rounding depends on the batch


@dataclass
class Findings:
    """Findings of all threads.

    Attributes:
        counts: kind of outcome -> number of calls.
        wrong: messages of the first wrong results.
        lock: lock for both.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, problem: str = "") -> None:
        """Count a call of the given kind; `problem` describes a wrong result."""
        with self.lock:
            self.counts[kind] += 1
            if problem and len(self.wrong) < 20:
                self.wrong.append(f"{kind}: {problem}")


class Soak:
    """Calls on one predictor, whose results are compared with those of single texts."""

    def __init__(self, folder: Path, provider: str, threads: int | None, longest: int) -> None:
        """Load the bundle and compute the expected results.

        Args:
            folder: folder of the bundle.
            provider: name of the execution provider.
            threads: threads within one operator.
            longest: maximum number of words of a text.
        """
        self.predictor = runtime.load(folder, provider=provider, threads=threads)
        shuffle = random.Random(0)  # noqa: S311 - texts, not secrets
        self.texts = [" ".join(shuffle.choices(_WORDS, k=shuffle.randint(1, longest))) for _ in range(_POOL)]
        # one call per text: no padding, no other texts in the batch
        self.expected = {
            drop: [{task: rows[0] for task, rows in self.predictor.predict([text], drop=drop).items()} for text in self.texts]
            for drop in self.predictor.drops
        }
        self.routed = all(variant.routed for variant in self.predictor.manifest.variants)
        encoder = TextEncoder.load(folder, self.predictor.manifest)
        rows = encoder.encode(self.texts)
        batches = [next(encoder.batches([row], CPU_LIMITS)).feeds for row in rows]
        self.feeds = batches if self.routed else []
        self.logits = {drop: [self.predictor.run(each, drop=drop) for each in self.feeds] for drop in self.predictor.drops}

    def fill(self) -> None:
        """Make the largest call of each kind and drop, so that all buffers reach their final size before memory is recorded."""
        longest = sorted(range(_POOL), key=lambda index: len(self.texts[index]))[-_MOST:]
        texts = [self.texts[index] for index in longest]
        for drop in self.predictor.drops:
            self.predictor.predict(texts, drop=drop)
            if self.routed:
                self.predictor.predict(texts, self.predictor.tasks[1:], drop=drop)
                tasks = list(itertools.islice(itertools.cycle(self.predictor.tasks), 2 * _MOST))
                self.predictor.run_routed(self._together(longest), tasks, [*range(_MOST)] * 2, drop)

    def call(self, choose: random.Random, findings: Findings) -> None:
        """Make one random call and record its outcome."""
        routed = 20 if self.routed else 0
        kind = choose.choices(["predict", "routed", "cancel", "invalid"], [90 - routed, routed, 6, 4])[0]
        drop = choose.choice(self.predictor.drops)
        tasks = choose.sample(self.predictor.tasks, choose.randint(1, len(self.predictor.tasks)))
        chosen = [choose.randrange(_POOL) for _ in range(choose.choice([1, 1, 1, 2, 4, _MOST]))]
        if kind == "invalid":
            self._call_invalid(choose, findings)
        elif kind == "routed":
            self._call_routed(choose, drop, chosen, findings)
        elif kind == "cancel":
            self._call_cancelled(choose, [self.texts[index] for index in chosen], findings)
        else:
            found = self.predictor.predict([self.texts[index] for index in chosen], tasks, drop)
            problem = "" if list(found) == tasks else f"tasks {list(found)} for {tasks}"
            for (task, rows), (position, index) in itertools.product(found.items(), enumerate(chosen)):
                expected = self.expected[drop][index][task]
                if rows[position].drop != drop or _distance(rows[position], expected) > _TOLERANCE:
                    problem = f"drop {drop}, task {task}, text {index}: {rows[position]} for {expected}"
            findings.add("wrong answer" if problem else "right", problem)

    def _call_routed(self, choose: random.Random, drop: int, chosen: Sequence[int], findings: Findings) -> None:
        """Run some of the texts, padded to one length and possibly repeated, with a random task per row."""
        feeds = self._together(chosen)
        rows = [choose.randrange(len(chosen)) for _ in range(choose.randint(1, 2 * len(chosen)))]
        tasks = choose.choices(self.predictor.tasks, k=len(rows))
        found = self.predictor.run_routed(feeds, tasks, rows, drop)
        problem = ""
        for row, task, logits in zip(rows, tasks, found, strict=True):
            wanted = self.logits[drop][chosen[row]][task][0]
            if logits.shape != wanted.shape or not np.abs(logits - wanted).max() <= _TOLERANCE * max(1.0, np.abs(wanted).max()):
                problem = f"drop {drop}, task {task}, text {chosen[row]}: {logits} for {wanted}"
        findings.add("wrong answer" if problem else "right, routed", problem)

    def _together(self, chosen: Sequence[int]) -> dict[str, Any]:
        """Return the chosen texts as one batch, padded to the longest."""
        width = max(self.feeds[index]["input_ids"].shape[1] for index in chosen)
        return {
            name: np.concatenate(
                [np.pad(self.feeds[index][name], ((0, 0), (0, width - _width(self.feeds[index])))) for index in chosen]
            )
            for name in self.feeds[0]
        }

    def _call_cancelled(self, choose: random.Random, texts: list[str], findings: Findings) -> None:
        cancellation = runtime.Cancellation()
        timer = threading.Timer(choose.random() * 0.05, cancellation.cancel)
        timer.start()
        try:
            self.predictor.predict(texts, cancel=cancellation)
            findings.add("ended before its cancellation")
        except runtime.CancelledError:
            findings.add("cancelled")
        finally:
            timer.join()

    def _call_invalid(self, choose: random.Random, findings: Findings) -> None:
        feeds: dict[str, Any] = {entry.name: np.zeros((1, 4), np.int64) for entry in self.predictor.manifest.inputs}
        invalid = choose.choice([{"input_ids": np.full((1, 4), 10**9)}, {"attention_mask": np.zeros((1, 5), np.int64)}])
        try:
            self.predictor.run(feeds | invalid)
            findings.add("wrong answer", f"{invalid} was accepted")
        except runtime.InputError:
            findings.add("refused")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder written by `python -m exporter`, preferably with several drops"
    )
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu", help="execution provider; default cpu")
    parser.add_argument("--minutes", type=float, default=10.0, help="duration; default 10")
    parser.add_argument("--threads", type=int, default=16, help="number of calling threads; default 16")
    parser.add_argument("--intra", type=int, default=1, help="threads within one operator; default 1")
    parser.add_argument("--longest", type=int, default=60, help="maximum number of words of a text; default 60")
    parser.add_argument("--growth", type=float, default=10.0, help="allowed growth of memory in MB; default 10")
    options = parser.parse_args(arguments)
    soak = Soak(options.folder, options.provider, options.intra, options.longest)
    findings, process = Findings(), psutil.Process()
    together = threading.Barrier(options.threads + 1)  # plus this thread

    def work(seed: int) -> None:
        together.wait()
        soak.fill()
        together.wait()
        choose = random.Random(seed)  # noqa: S311 - an order, not a secret
        ends = time.monotonic() + 60 * options.minutes
        while time.monotonic() < ends:
            try:
                soak.call(choose, findings)
            except Exception as error:  # every unexpected error counts
                findings.add("unexpected error", repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(options.threads)]
    for thread in threads:
        thread.start()
    together.wait()
    together.wait()
    ends = time.monotonic() + 60 * options.minutes
    curve = []
    for number in range(1, _READINGS + 1):
        time.sleep(max(0.0, ends - 60 * options.minutes * (1 - number / _READINGS) - time.monotonic()))
        # timers of cancelled calls are threads too; only the other threads must not grow
        timers = sum(isinstance(thread, threading.Timer) for thread in threading.enumerate())
        curve.append((process.memory_info().rss / 2**20, process.num_fds(), process.num_threads() - timers))
        shown = f"{curve[-1][0]:.0f} MB, {curve[-1][1]} files, {curve[-1][2]} threads"
        print(f"{sum(findings.counts.values())} calls, {shown}", file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    memory, files, running = map(list, zip(*curve, strict=True))
    # the first quarter fills arenas and caches; growth after it is a leak
    quarter = _READINGS // 4
    growth = statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter])
    leaks = {"memory": growth > options.growth}
    for name, counts in (("files", files), ("threads", running)):
        leaks[name] = statistics.median(counts[-quarter:]) > statistics.median(counts[quarter : 2 * quarter])
    result = {
        "provider": soak.predictor.provider,
        "minutes": options.minutes,
        "threads": options.threads,
        "calls": dict(sorted(findings.counts.items())),
        "memory_mb": [round(each, 1) for each in memory],
        "open_files": files,
        "process_threads": running,
        "growth_mb": round(growth, 1),
        "leaks": [name for name, found in leaks.items() if found],
        "wrong": findings.wrong,
        "versions": versions((*FLAVOURS, "numpy")),
    }
    print(json.dumps(result))
    return int(bool(findings.wrong or result["leaks"]))


def _width(feeds: Mapping[str, npt.NDArray[Any]]) -> int:
    return int(feeds["input_ids"].shape[1])


def _distance(found: runtime.Prediction, wanted: runtime.Prediction) -> float:
    """Return the largest numerical difference of two predictions; infinity if they differ in anything else."""
    if found.scores.keys() != wanted.scores.keys() or len(found.words) != len(wanted.words):
        return float("inf")
    pairs = [(found.scores[label], wanted.scores[label]) for label in found.scores]
    pairs += [(found.value, wanted.value)] if found.value is not None and wanted.value is not None else []
    pairs += [(a.score, b.score) for a, b in zip(found.words, wanted.words, strict=True)]
    same_text = found.answer == wanted.answer and [word.text for word in found.words] == [word.text for word in wanted.words]
    return max((abs(a - b) for a, b in pairs), default=0.0) if same_text else float("inf")


if __name__ == "__main__":
    sys.exit(exit_status(main))
