"""Many threads on one predictor for a long time: python -m benchmarks.soak DIR [--minutes 10] [--threads 16]

Every call takes texts of a fixed pool at random lengths, tasks and drops, and must answer as the same texts did alone, before
the threads began; where the bundle has a routed graph, some calls ask another task of each text. Some calls are cancelled, some
are faulty and must be refused. Memory, open files and threads are read after each twentieth of the time: memory may not grow
from the second quarter to the last by more than --growth, files and threads not at all.

Exit status: 0 right and no leak, 1 otherwise. The last line of standard output is the result as JSON.
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
import onnxruntime
import psutil

import runtime
from runtime.text.encode import CPU_LIMITS, TextEncoder

_POOL = 96
_MOST = 8  # texts of a call
_READINGS = 20  # of memory, files and threads
_WORDS = ("the", "phone", "is", "fast", "and", "screen", "gorgeous", "but", "battery", "weak", "news", "of", "Berlin", "again")
_TOLERANCE = 1e-3  # of probabilities: a batch rounds otherwise than a text alone


@dataclass
class Findings:
    """What all threads found."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, fault: str = "") -> None:
        with self.lock:
            self.counts[kind] += 1
            if fault and len(self.wrong) < 20:
                self.wrong.append(f"{kind}: {fault}")


class Soak:
    """Calls on one predictor, compared with the answers of single texts."""

    def __init__(self, folder: Path, threads: int | None, longest: int) -> None:
        self.predictor = runtime.load(folder, provider="cpu", threads=threads)
        shuffle = random.Random(0)  # noqa: S311 - texts, not secrets
        self.texts = [" ".join(shuffle.choices(_WORDS, k=shuffle.randint(1, longest))) for _ in range(_POOL)]
        # one call a text: no padding, no neighbours
        self.alone = {
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
        """The largest call of each kind and drop, so that what may grow to a largest size has it before memory is watched."""
        longest = sorted(range(_POOL), key=lambda index: len(self.texts[index]))[-_MOST:]
        texts = [self.texts[index] for index in longest]
        for drop in self.predictor.drops:
            self.predictor.predict(texts, drop=drop)
            if self.routed:
                self.predictor.predict(texts, self.predictor.tasks[1:], drop=drop)
                tasks = list(itertools.islice(itertools.cycle(self.predictor.tasks), 2 * _MOST))
                self.predictor.run_routed(self._together(longest), tasks, [*range(_MOST)] * 2, drop)

    def call(self, choose: random.Random, findings: Findings) -> None:
        routed = 20 if self.routed else 0
        kind = choose.choices(["predict", "routed", "cancel", "faulty"], [90 - routed, routed, 6, 4])[0]
        drop = choose.choice(self.predictor.drops)
        tasks = choose.sample(self.predictor.tasks, choose.randint(1, len(self.predictor.tasks)))
        chosen = [choose.randrange(_POOL) for _ in range(choose.choice([1, 1, 1, 2, 4, _MOST]))]
        if kind == "faulty":
            self._faulty(choose, findings)
        elif kind == "routed":
            self._mixed(choose, drop, chosen, findings)
        elif kind == "cancel":
            self._cancelled(choose, [self.texts[index] for index in chosen], findings)
        else:
            found = self.predictor.predict([self.texts[index] for index in chosen], tasks, drop)
            fault = "" if list(found) == tasks else f"tasks {list(found)} for {tasks}"
            for (task, rows), (place, index) in itertools.product(found.items(), enumerate(chosen)):
                if rows[place].drop != drop or _distance(rows[place], self.alone[drop][index][task]) > _TOLERANCE:
                    fault = f"drop {drop}, task {task}, text {index}: {rows[place]} for {self.alone[drop][index][task]}"
            findings.add("wrong answer" if fault else "right", fault)

    def _mixed(self, choose: random.Random, drop: int, chosen: Sequence[int], findings: Findings) -> None:
        """Some of the texts, padded to one length, some of them more than once, each for a task of its own."""
        feeds = self._together(chosen)
        rows = [choose.randrange(len(chosen)) for _ in range(choose.randint(1, 2 * len(chosen)))]
        tasks = choose.choices(self.predictor.tasks, k=len(rows))
        found = self.predictor.run_routed(feeds, tasks, rows, drop)
        fault = ""
        for row, task, logits in zip(rows, tasks, found, strict=True):
            wanted = self.logits[drop][chosen[row]][task][0]
            if logits.shape != wanted.shape or not np.abs(logits - wanted).max() <= _TOLERANCE * max(1.0, np.abs(wanted).max()):
                fault = f"drop {drop}, task {task}, text {chosen[row]}: {logits} for {wanted}"
        findings.add("wrong answer" if fault else "right, routed", fault)

    def _together(self, chosen: Sequence[int]) -> dict[str, Any]:
        """The chosen texts as one batch, padded to the longest."""
        width = max(self.feeds[index]["input_ids"].shape[1] for index in chosen)
        return {
            name: np.concatenate(
                [np.pad(self.feeds[index][name], ((0, 0), (0, width - _width(self.feeds[index])))) for index in chosen]
            )
            for name in self.feeds[0]
        }

    def _cancelled(self, choose: random.Random, texts: list[str], findings: Findings) -> None:
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

    def _faulty(self, choose: random.Random, findings: Findings) -> None:
        feeds: dict[str, Any] = {entry.name: np.zeros((1, 4), np.int64) for entry in self.predictor.manifest.inputs}
        faulty = choose.choice([{"input_ids": np.full((1, 4), 10**9)}, {"attention_mask": np.zeros((1, 5), np.int64)}])
        try:
            self.predictor.run(feeds | faulty)
            findings.add("wrong answer", f"{faulty} was answered")
        except runtime.InputError:
            findings.add("refused")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `python -m exporter` wrote; several drops are best")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--threads", type=int, default=16, help="threads that call")
    parser.add_argument("--intra", type=int, default=1, help="threads within one operation")
    parser.add_argument("--longest", type=int, default=60, help="words of the longest text")
    parser.add_argument("--growth", type=float, default=10.0, help="MB by which memory may grow")
    options = parser.parse_args(arguments)
    soak = Soak(options.folder, options.intra, options.longest)
    findings, process = Findings(), psutil.Process()
    together = threading.Barrier(options.threads + 1)  # the last one is this thread

    def work(seed: int) -> None:
        together.wait()
        soak.fill()
        together.wait()
        choose = random.Random(seed)  # noqa: S311 - an order, not a secret
        ends = time.monotonic() + 60 * options.minutes
        while time.monotonic() < ends:
            try:
                soak.call(choose, findings)
            except Exception as error:  # whatever it is, it must be counted
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
        # a cancelled call has a thread for its timer: the calling threads and this process's own are what must not grow
        timers = sum(isinstance(thread, threading.Timer) for thread in threading.enumerate())
        curve.append((process.memory_info().rss / 2**20, process.num_fds(), process.num_threads() - timers))
        shown = f"{curve[-1][0]:.0f} MB, {curve[-1][1]} files, {curve[-1][2]} threads"
        print(f"{sum(findings.counts.values())} calls, {shown}", file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    memory, files, running = map(list, zip(*curve, strict=True))
    # the first quarter fills arenas and caches; what grows after it leaks
    quarter = _READINGS // 4
    growth = statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter])
    leaks = {"memory": growth > options.growth}
    for name, counts in (("files", files), ("threads", running)):
        leaks[name] = statistics.median(counts[-quarter:]) > statistics.median(counts[quarter : 2 * quarter])
    result = {
        "minutes": options.minutes,
        "threads": options.threads,
        "calls": dict(sorted(findings.counts.items())),
        "memory_mb": [round(each, 1) for each in memory],
        "open_files": files,
        "process_threads": running,
        "growth_mb": round(growth, 1),
        "leaks": [name for name, found in leaks.items() if found],
        "wrong": findings.wrong,
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }
    print(json.dumps(result))
    return int(bool(findings.wrong or result["leaks"]))


def _width(feeds: Mapping[str, npt.NDArray[Any]]) -> int:
    return int(feeds["input_ids"].shape[1])


def _distance(found: runtime.Prediction, wanted: runtime.Prediction) -> float:
    """The largest difference of two predictions' numbers; infinity where they differ otherwise."""
    if found.scores.keys() != wanted.scores.keys() or len(found.words) != len(wanted.words):
        return float("inf")
    pairs = [(found.scores[label], wanted.scores[label]) for label in found.scores]
    pairs += [(found.value, wanted.value)] if found.value is not None and wanted.value is not None else []
    pairs += [(a.score, b.score) for a, b in zip(found.words, wanted.words, strict=True)]
    same_text = found.answer == wanted.answer and [word.text for word in found.words] == [word.text for word in wanted.words]
    return max((abs(a - b) for a, b in pairs), default=0.0) if same_text else float("inf")


if __name__ == "__main__":
    sys.exit(main())
