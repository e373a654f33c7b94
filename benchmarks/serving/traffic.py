"""Requests at Poisson arrivals: the open loop of one load, and the search for the highest load within an objective."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.serving.batcher import Batcher
from runtime.serving.request import PredictRequest
from runtime.text.predict_options import PredictOptions

STEP = 1.25  # ratio of two neighbouring loads
_STEPS = 30  # loads from 1 to 646 requests per second
_LEAST = 40  # requests of a measurement
_OVERLOADED = 5  # multiple of the objective at which the oldest request ends a measurement
_REMEMBERED = 1_000  # texts among which a repetition chooses


@dataclass(frozen=True)
class Point:
    """One load.

    Attributes:
        load: requests per second that were scheduled.
        requests: number of requests.
        within: share of them answered within the objective, counted from the scheduled arrival.
        p50_ms: median latency in milliseconds; a lower bound if `stopped`.
        p95_ms: 95th percentile of the latency, likewise.
        stopped: whether the queue grew without bound, so that the measurement ended early.
    """

    load: float
    requests: int
    within: float
    p50_ms: float
    p95_ms: float
    stopped: bool


def read_texts(folder: Path) -> list[Any]:
    """Return the texts and pairs that `python -m training.texts` wrote, in an order that mixes the test sets."""
    # Not splitlines(): texts contain other characters that it takes for ends of lines
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text("utf-8").split("\n") if line]
    records = [json.loads(line) for line in lines]
    texts = [record["text"] if "text" in record else (record["text_a"], record["text_b"]) for record in records]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]


def requests(texts: Sequence[Any], tasks: Sequence[str], per_text: int, repeats: float, seed: int) -> Iterator[PredictRequest]:
    """Yield requests without end.

    Args:
        texts: texts, each used once before any is used again.
        tasks: names of all tasks.
        per_text: number of tasks of a request.
        repeats: share of requests whose text is one of the last that were sent.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    fresh, known = itertools.cycle(texts), list[Any]()
    while True:
        if known and rng.random() < repeats:
            text = known[rng.integers(len(known))]
        else:
            known = [*known[1 - _REMEMBERED :], text := next(fresh)]
        chosen = rng.choice(len(tasks), min(per_text, len(tasks)), replace=False)
        yield PredictRequest((text,), tuple(tasks[number] for number in chosen), None, PredictOptions(truncate=True))


async def measure(
    batcher: Batcher, given: Iterator[PredictRequest], load: float, seconds: float, objective: float, seed: int
) -> Point:
    """Send requests at random times that do not depend on the answers.

    Args:
        batcher: the service.
        given: the requests.
        load: mean number of requests per second.
        seconds: duration; longer if there would be fewer than 40 requests, or 20 per second of it.
        objective: latency in seconds.
        seed: of the times.
    """
    count = max(round(load * seconds), min(_LEAST, max(10, round(20 * seconds))))
    clock = asyncio.get_running_loop().time
    due = clock() + 0.05 + np.cumsum(np.random.default_rng(seed).exponential(1 / load, count))
    done: list[float | None] = [None] * count
    oldest = 0

    async def send(number: int, request: PredictRequest) -> None:
        await batcher.submit(request)
        done[number] = clock() - due[number]

    running, stopped = [], False
    for number in range(count):
        await asyncio.sleep(max(0.0, due[number] - clock()))
        running.append(asyncio.create_task(send(number, next(given))))
        while oldest < number and done[oldest] is not None:
            oldest += 1
        if stopped := clock() - due[oldest] > _OVERLOADED * objective:
            break
    _, left = await asyncio.wait(running, timeout=_OVERLOADED * objective)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in running:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    now = clock()
    latencies = [now - due[number] if (own := done[number]) is None else own for number in range(len(running))]
    return Point(
        load=load,
        requests=len(latencies),
        within=sum(each <= objective for each in latencies) / len(latencies),
        p50_ms=1e3 * float(np.percentile(latencies, 50)),
        p95_ms=1e3 * float(np.percentile(latencies, 95)),
        stopped=bool(stopped or left),
    )


def holds(point: Point) -> bool:
    """Return whether 95 % of the requests were answered within the objective."""
    return not point.stopped and point.within >= 0.95


async def search(batcher: Batcher, given: Iterator[PredictRequest], seconds: float, objective: float) -> list[Point]:
    """Bisect over loads, each 1.25 times the one before, and return all points that were measured, by load."""
    for _ in range(8):  # the first runs allocate memory
        await batcher.submit(next(given))
    points: dict[int, Point] = {}
    low, high = -1, _STEPS
    step = 14  # 23 requests per second
    while high - low > 1:
        middle = step if high == _STEPS and step < high else (low + high) // 2
        points[middle] = await measure(batcher, given, STEP**middle, seconds, objective, middle)
        if holds(points[middle]):
            low, step = middle, middle + 4
        else:
            high = middle
    return [points[key] for key in sorted(points)]


def highest(points: Sequence[Point]) -> float | None:
    """Return the highest load below the first that does not hold the objective; None if none does."""
    held = itertools.takewhile(holds, sorted(points, key=lambda point: point.load))
    return max((point.load for point in held), default=None)
