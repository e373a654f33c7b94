"""Interleaved timing and its statistics."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contender import Call, Outputs

# After a run, threads of ONNX Runtime spin for some 30 ms, unless a session says otherwise as ours do. Without a pause, a
# contender would compete with the threads of the previous one.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Stats:
    """Statistics of one contender at one shape. Ratios are medians of the ratios within each round.

    Attributes:
        median_ms: median time of all tasks for one batch, in milliseconds.
        p95_ms: 95th percentile of the same.
        answers_per_second: texts x tasks per second, from the median.
        time_saved: 1 - t / t_ref, where t_ref is the time of the fastest eager contender at the same drop; None if none ran.
        throughput_ratio: t_ref / t; None if no eager contender ran.
        versus_parallel: t_parallel / t, where t_parallel is the time of the library's Parallel block in fp32 at the same drop;
            None if it did not run.
    """

    median_ms: float
    p95_ms: float
    answers_per_second: float
    time_saved: float | None
    throughput_ratio: float | None
    versus_parallel: float | None


def timed(call: Call) -> tuple[Outputs, float]:
    """Return the result of a call and its duration in seconds."""
    start = time.perf_counter()
    outputs = call()
    return outputs, time.perf_counter() - start


def rounds_within(seconds: float, one_round: float, least: int, most: int) -> int:
    """Return the number of rounds of `one_round` seconds that fit into `seconds`, limited to `least`..`most`."""
    return max(least, min(most, int(seconds / max(one_round, 1e-9))))


def measure(
    calls: Mapping[str, Call], rounds: int, seed: int, on_call: Callable[[str], None], pause: float = _PAUSE_SECONDS
) -> dict[str, list[float]]:
    """Time all calls in interleaved rounds. Each round runs every call once, in shuffled order.

    Args:
        calls: key -> call.
        rounds: number of rounds.
        seed: seed of the order.
        on_call: callback that receives the key after each call; its time is not measured.
        pause: seconds before each call.

    Returns:
        Key -> seconds of each round, in the order of the rounds.
    """
    shuffle = random.Random(seed)  # noqa: S311 - an order, not a secret
    times: dict[str, list[float]] = {key: [] for key in calls}
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # the collection after each round then visits only the objects of the round
    gc.disable()
    try:
        for _ in range(rounds):
            order = list(calls)
            shuffle.shuffle(order)
            for key in order:
                time.sleep(pause)
                times[key].append(timed(calls[key])[1])
                on_call(key)
            gc.collect()
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    return times


def p95(times: Sequence[float]) -> float:
    """Return the 95th percentile with linear interpolation."""
    return float(np.percentile(times, 95))


def paired_ratio(reference: Sequence[float], times: Sequence[float]) -> float:
    """Return the median of reference / time over the rounds: load that affects a whole round cancels out."""
    return statistics.median(before / after for before, after in zip(reference, times, strict=True))


def paired_saving(reference: Sequence[float], times: Sequence[float]) -> float:
    """Return the median of 1 - time / reference over the rounds."""
    return statistics.median(1 - after / before for before, after in zip(reference, times, strict=True))


def fastest(times: Mapping[str, Sequence[float]], keys: Sequence[str]) -> str | None:
    """Return the key with the smallest median among `keys`; None if none of them has times."""
    return min((key for key in keys if key in times), key=lambda key: statistics.median(times[key]), default=None)


def summarize(times: Mapping[str, Sequence[float]], references: Sequence[str], parallel: str, answers: int) -> dict[str, Stats]:
    """Compute the statistics of every contender at one shape.

    Args:
        times: key -> seconds per round.
        references: keys of the eager contenders at the same drop.
        parallel: key of the Parallel block in fp32 at the same drop.
        answers: texts x tasks of one call.

    Returns:
        Key -> statistics.
    """
    best = fastest(times, references)
    found = {}
    for key, own in times.items():
        median = statistics.median(own)
        found[key] = Stats(
            median_ms=1e3 * median,
            p95_ms=1e3 * p95(own),
            answers_per_second=answers / median,
            time_saved=None if best is None else paired_saving(times[best], own),
            throughput_ratio=None if best is None else paired_ratio(times[best], own),
            versus_parallel=paired_ratio(times[parallel], own) if parallel in times else None,
        )
    return found
