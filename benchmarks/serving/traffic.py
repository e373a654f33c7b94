"""Requests at Poisson arrivals: the open loop of one load, and the search for the highest load within each objective."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from benchmarks.serving.machine_load import OtherProcesses
from runtime.serving.request import PredictRequest
from runtime.text.predict_options import PredictOptions

STEP = 1.25  # ratio of two neighbouring loads
SHARE = 0.95  # of the requests, that keep an objective
_WARMING = 8  # requests before the first measurement: the first runs allocate memory
_ALONE = 20  # requests one after another
_FEWEST = 40  # requests of a load
_OVERLOADED = 5  # multiple of the largest objective at which the oldest request ends a measurement
_MOST = 2_000  # requests per second; a loop of Python does not send more on time
_REMEMBERED = 1_000  # texts among which a repetition chooses


class Service(Protocol):
    """The part of `runtime.serving.batcher.Batcher` that is measured."""

    async def submit(self, request: PredictRequest) -> bytes:
        """Compute a request."""


@dataclass(frozen=True)
class Point:
    """One load.

    Attributes:
        load: requests per second that were scheduled; 0 for requests one after another.
        requests: number of requests.
        within: share of them answered within each objective, counted from the scheduled arrival.
        p50_ms: median latency in milliseconds; a lower bound if `stopped`.
        p95_ms: 95th percentile of the latency, likewise.
        stopped: whether the queue grew without bound, so that the measurement ended early.
        others: cores that other processes used on average meanwhile.
        cpu_ms: CPU time of this process for each request that was answered, in milliseconds: of all threads, also of those that
            wait for work in a loop.
        measurements: how often the load was measured; the best measurement counts.
    """

    load: float
    requests: int
    within: Sequence[float]
    p50_ms: float
    p95_ms: float
    stopped: bool
    others: float = 0.0
    cpu_ms: float = 0.0
    measurements: int = 1

    def holds(self, objective: int) -> bool:
        """Return whether enough requests were answered within the objective of this number."""
        return not self.stopped and self.within[objective] >= SHARE


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


@dataclass(frozen=True)
class LoadTest:
    """A service and what it is asked.

    Attributes:
        service: the service.
        given: the requests.
        seconds: duration of a load; longer if there would be fewer than 40 requests.
        objectives: latencies in seconds, ascending.
    """

    service: Service
    given: Iterator[PredictRequest]
    seconds: float
    objectives: Sequence[float]

    async def alone(self) -> Point:
        """Send requests one after another, which no queue delays."""
        for _ in range(_WARMING):
            await self.service.submit(next(self.given))
        clock, latencies, others = asyncio.get_running_loop().time, [], OtherProcesses()
        for _ in range(_ALONE):
            start = clock()
            await self.service.submit(next(self.given))
            latencies.append(clock() - start)
        return self._point(0.0, latencies, stopped=False, others=others)

    async def measure(self, load: float, step: int) -> Point:
        """Send requests at random times that do not depend on the answers.

        Args:
            load: mean number of requests per second.
            step: step of the search, which seeds the times; negative for loads below a request per second.
        """
        await self.service.submit(next(self.given))  # what the last load left behind is done before it
        count = max(round(load * self.seconds), _FEWEST)
        most = _OVERLOADED * max(self.objectives)
        clock = asyncio.get_running_loop().time
        due = clock() + 0.05 + np.cumsum(np.random.default_rng(abs(step)).exponential(1 / load, count))
        done: list[float | None] = [None] * count
        oldest, others = 0, OtherProcesses()

        async def send(number: int, request: PredictRequest) -> None:
            await self.service.submit(request)
            done[number] = clock() - due[number]

        running, stopped = [], False
        for number in range(count):
            await asyncio.sleep(max(0.0, due[number] - clock()))
            running.append(asyncio.create_task(send(number, next(self.given))))
            while oldest < number and done[oldest] is not None:
                oldest += 1
            if stopped := bool(clock() - due[oldest] > most):
                break
        _, left = await asyncio.wait(running, timeout=most)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for task in running:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        now = clock()
        latencies = [now - due[number] if (own := done[number]) is None else own for number in range(len(running))]
        return self._point(load, latencies, stopped=stopped or bool(left), others=others, left=len(left))

    def _point(self, load: float, latencies: Sequence[float], stopped: bool, others: OtherProcesses, left: int = 0) -> Point:
        return Point(
            load=load,
            requests=len(latencies),
            within=tuple(sum(each <= own for each in latencies) / len(latencies) for own in self.objectives),
            p50_ms=1e3 * float(np.percentile(latencies, 50)),
            p95_ms=1e3 * float(np.percentile(latencies, 95)),
            stopped=stopped,
            others=others.cores(),
            cpu_ms=1e3 * others.own_seconds() / max(1, len(latencies) - left),
        )

    async def search(self) -> list[Point]:
        """Bisect over loads, each 1.25 times the one before, for each objective that requests keep without a queue.

        A load misses an objective if two measurements of it do: a pause of the machine is longer than an objective.

        Returns:
            All points, by load. The first is that without a queue.
        """
        alone = await _best_of_two(self.alone, 0)
        points: dict[int, Point] = {}
        first = round(math.log(1e3 / alone.p50_ms, STEP))  # as fast as without batches
        for number, _ in enumerate(self.objectives):
            if not alone.holds(number):
                continue
            low, high = _bracket(points, number)
            while low is None or high is None or high - low > 1:
                if low is None and high is None:
                    step = first
                elif high is None:
                    step = (low or 0) + 3
                else:
                    step = high - 3 if low is None else (low + high) // 2
                if not 1 / self.seconds <= STEP**step <= _MOST:  # at least a request per measurement
                    break
                points[step] = await _best_of_two(partial(self.measure, STEP**step, step), number)
                low, high = _bracket(points, number)
        return [alone, *(points[key] for key in sorted(points))]


async def _best_of_two(measure: Callable[[], Awaitable[Point]], objective: int) -> Point:
    """Measure a load, and once more if it misses the objective of this number."""
    first = await measure()
    if first.holds(objective):
        return first

    def quality(point: Point) -> tuple[int, float]:
        return sum(map(point.holds, range(len(point.within)))), point.within[objective]

    return replace(max(first, await measure(), key=quality), measurements=2)


def _bracket(points: dict[int, Point], objective: int) -> tuple[int | None, int | None]:
    """Return the step of the highest load below the first failure, and of this failure."""
    high = min((step for step, point in points.items() if not point.holds(objective)), default=None)
    low = max((step for step in points if high is None or step < high), default=None)
    return low, high


def highest(points: Sequence[Point], objective: int) -> float | None:
    """Return the highest load below the first that does not hold an objective, by its number; None if none does."""
    held = itertools.takewhile(lambda point: point.holds(objective), sorted(points, key=lambda point: point.load))
    return max((point.load for point in held if point.load), default=None)
