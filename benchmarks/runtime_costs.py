"""Benchmark of the runtime on an exported bundle: overhead, batching, start-up, providers and memory.

`python -m benchmarks.runtime_costs DIR FIGURE …` prints one line of JSON per figure:

  batching   batches of `predict` against batches of 32 padded to the longest text, lengths uniform in 1..128
  overhead   `Predictor.run` against `InferenceSession.run` at 1x128 and 1x1, and around a session without computation
  start      a new process: import, `runtime.load` and the first prediction
  speed      time of a call with one copy of the packed weights, against separate copies per variant
  providers  time of a call with every provider that works here and with OpenVINO's bf16, and difference from the CPU provider
  memory     resident memory (PSS) of one variant and of all, with separate packed weights and with one copy
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import runtime
from benchmarks.command import exit_status
from benchmarks.options import cores
from benchmarks.rounds import measure, paired_ratio, rounds_within, timed
from runtime.ort.node_counts import example_feeds
from runtime.text.bucketing import split
from runtime.text.encode import CPU_LIMITS

_ROWS = 32  # rows of a batch that is padded to the longest text
_LONGEST = 128
_TEXTS = 64
_PROCESSES = (("one", 1), ("all", 1), ("all", 4))  # variants and number of processes of the figure of memory
_TEXT = "The new phone is fast, and the screen is gorgeous."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_costs", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder written by `python -m exporter`; memory needs several drops"
    )
    parser.add_argument("figures", nargs="+", choices=_FIGURES, metavar="FIGURE", help=", ".join(_FIGURES))
    parser.add_argument("--seconds", type=float, default=30.0, help="time for each comparison; default 30")
    options = parser.parse_args(arguments)
    for name in options.figures:
        print(json.dumps({"figure": name} | _FIGURES[name](options.folder, options.seconds)), flush=True)
    return 0


def batching(folder: Path, seconds: float) -> dict[str, Any]:
    """Compare the batches of `predict` with batches padded to the longest text."""
    predictor = runtime.load(folder, provider="cpu", threads=cores())
    longest = min(_LONGEST, predictor.manifest.max_lengths.get("sequence", _LONGEST))
    lengths = np.random.default_rng(0).integers(1, longest + 1, _TEXTS).tolist()
    naive = [list(range(start, min(start + _ROWS, _TEXTS))) for start in range(0, _TEXTS, _ROWS)]
    ours = split(lengths, CPU_LIMITS.rows, CPU_LIMITS.tokens, CPU_LIMITS.call)

    def run(batches: list[list[int]], width: Callable[[list[int]], int]) -> None:
        for batch in batches:
            predictor.run(_rows(predictor, [lengths[index] for index in batch], width(batch)))

    calls = {
        "padded": lambda: run(naive, lambda _: max(lengths)),
        "split": lambda: run(ours, lambda batch: max(lengths[index] for index in batch)),
    }
    return _compared(calls, "padded", seconds)


def overhead(folder: Path, seconds: float) -> dict[str, Any]:
    """Compare calls with and without the predictor on the same session.

    The calls run without a pause, as in a busy service, and with a pause before each call, after which CPU caches are cold.
    """
    predictor = runtime.load(folder, provider="cpu", threads=cores())
    session = predictor._bundle.sessions[predictor.manifest.variants[0].model]
    outputs = [output for task in predictor.manifest.tasks for output in task.outputs]
    found = {}
    for width in (128, 1):
        feeds = example_feeds(predictor.manifest, 1, width)
        # B023: the calls are used only in this iteration
        calls = {"bare": lambda: session.run(outputs, feeds), "predictor": lambda: predictor.run(feeds)}  # noqa: B023
        found[f"1x{width} after a pause"] = _compared(calls, "bare", seconds / 2)
        times: dict[str, list[float]] = {name: [] for name in calls}
        ends = time.perf_counter() + seconds / 2
        while time.perf_counter() < ends:
            for name in ("bare", "predictor", "predictor", "bare"):  # balanced order
                times[name].append(timed(calls[name])[1])
        found[f"1x{width}"] = _summary(times, "bare", "predictor")
        found[f"1x{width} of nothing"] = _wrapper(predictor, feeds)
    return found


class _NoComputation:
    """A session that returns stored outputs without computation."""

    def __init__(self, logits: Sequence[npt.NDArray[Any]]) -> None:
        self._logits = logits

    def run(self, *_: object) -> Sequence[npt.NDArray[Any]]:
        return self._logits


def _wrapper(predictor: runtime.Predictor, feeds: Mapping[str, npt.NDArray[Any]], calls: int = 2000) -> dict[str, Any]:
    """Measure consecutive calls of `Predictor.run` around a session without computation, in milliseconds."""
    sessions = {predictor.manifest.variants[0].model: _NoComputation(list(predictor.run(feeds).values()))}
    wrapper = replace(predictor, _bundle=replace(predictor._bundle, sessions=sessions))
    call: Any = partial(wrapper.run, feeds)
    times = [timed(call)[1] for _ in range(calls)]
    return {"calls": calls, "predictor_ms": round(1e3 * statistics.median(times), 4)}


def start(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure the seconds from the start of a process to its first prediction, including the start of the interpreter."""
    code = f"import runtime; runtime.load({str(folder)!r}, provider='cpu').predict([{_TEXT!r}])"

    def call(*options: str) -> Any:
        return lambda: subprocess.run([sys.executable, *options, "-c", code], check=True)

    times = [timed(call())[1] for _ in range(max(3, int(seconds / 2)))]
    return {"median_s": round(statistics.median(times), 3), "runs": len(times)}


def speed(folder: Path, seconds: float) -> dict[str, Any]:
    """Compare a call with separate packed weights and with one copy of them, at the highest and the lowest drop."""
    own, shared = (
        runtime.load(folder, provider="cpu", options=runtime.Options(threads=cores(), share_weights=share))
        for share in (False, True)
    )
    found = {}
    for drop in (max(own.drops), min(own.drops)):
        for width in (16, 128):
            feeds = example_feeds(own.manifest, 1, width)
            # B023: the calls are used only in this iteration
            calls = {"own": lambda: own.run(feeds, drop=drop), "shared": lambda: shared.run(feeds, drop=drop)}  # noqa: B023
            found[f"drop {drop}, 1x{width}"] = _compared(calls, "own", seconds)
    return found


def providers(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure a call with every provider that works here, and the largest difference of its logits from the CPU provider."""
    loaded = {"cpu": runtime.load(folder, provider="cpu", threads=cores())}
    for name, provider, options in (
        ("openvino f32", "openvino", runtime.Options()),
        ("openvino bf16", "openvino", runtime.Options(openvino=runtime.OpenVINOOptions(precision="bf16"))),
        ("cuda", "cuda", runtime.Options()),
    ):
        with suppress(runtime.ProviderError):  # providers that do not work on this machine are missing from the result
            loaded[name] = runtime.load(folder, provider=provider, threads=cores(), options=options)
    found: dict[str, Any] = {}
    for batch, width in ((1, 32), (1, 128), (4, 128)):
        feeds = example_feeds(loaded["cpu"].manifest, batch, width)
        wanted = loaded["cpu"].run(feeds)
        calls: dict[str, Any] = {name: partial(predictor.run, feeds) for name, predictor in loaded.items()}
        one_round = sum(timed(call)[1] for _ in range(2) for call in calls.values()) / 2
        times = measure(calls, rounds_within(seconds, one_round + 0.02 * len(calls), 5, 2000), 0, lambda _: None)
        found[f"{batch}x{width}"] = {
            name: {
                "median_ms": round(1e3 * statistics.median(own), 2),
                "max_abs_diff": max(float(np.abs(call()[task] - wanted[task]).max()) for task in wanted),
            }
            for (name, own), call in zip(times.items(), calls.values(), strict=True)
        }
    return found


def memory(folder: Path, seconds: float) -> dict[str, Any]:  # noqa: ARG001 - the signature of all figures
    """Measure memory in separate processes, in MB above the bare import: PSS and anonymous (not reclaimable) memory."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for variants, processes in _PROCESSES:
            for way in ("own", "shared", "cached"):
                command = [sys.executable, "-m", "benchmarks.runtime_memory", str(folder), variants, way, cache]
                if way == "cached":
                    _together(command, 1)  # creates the cache
                found[f"{processes} x {variants} {way}"] = _together(command, processes)
    return found


def _together(command: Sequence[str], count: int) -> dict[str, int]:
    """Run `count` processes at the same time and return the sum of their results."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with ExitStack() as stack:
        # mypy gives all values of `pipes` one type
        running = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(count)]  # type: ignore[call-overload]
        for process in running:
            process.stdout.readline()  # all processes load before the first one measures, so that shared pages count as shared
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        results = [json.loads(process.stdout.readline()) for process in running]
    return {name: sum(each[name] for each in results) for name in results[0]}


def _rows(predictor: runtime.Predictor, lengths: Sequence[int], width: int) -> dict[str, npt.NDArray[Any]]:
    feeds = example_feeds(predictor.manifest, len(lengths), width)
    for row, length in enumerate(lengths):
        feeds["attention_mask"][row, length:] = 0
    return feeds


def _compared(calls: Mapping[str, Callable[[], Any]], reference: str, seconds: float) -> dict[str, Any]:
    (other,) = calls.keys() - {reference}
    one_round = sum(timed(call)[1] for _ in range(2) for call in calls.values()) / 2
    times = measure(calls, rounds_within(seconds, one_round + 0.04, 5, 2000), 0, lambda _: None)
    return _summary(times, reference, other)


def _summary(times: Mapping[str, Sequence[float]], reference: str, other: str) -> dict[str, Any]:
    return {
        "rounds": len(times[reference]),
        **{f"{name}_ms": round(1e3 * statistics.median(own), 3) for name, own in times.items()},
        "difference_ms": round(1e3 * statistics.median(b - a for a, b in zip(times[reference], times[other], strict=True)), 3),
        "throughput_ratio": round(paired_ratio(times[reference], times[other]), 3),
    }


_FIGURES: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "batching": batching,
    "overhead": overhead,
    "start": start,
    "speed": speed,
    "providers": providers,
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(exit_status(main))
