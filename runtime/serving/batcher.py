"""Batches over concurrent requests. Large requests are divided, so that others do not wait for all of their texts."""

import asyncio
import json
import logging
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.bundle.interface import SEQUENCE
from runtime.checks.requests import check_drop
from runtime.serving.limits import Limits, RequestError
from runtime.serving.request import PredictRequest, Served, respond
from runtime.slots.hot_entry import pinned
from runtime.text.encode import GPUS
from runtime.text.texts import characters

_LOGGER: Final = logging.getLogger(__name__)
_CPU_CHARACTERS: Final = 2_048  # about 512 tokens; on the example, larger batches are less than a tenth faster on a CPU
_GPU_CHARACTERS: Final = 65_536
_PER_TEXT: Final = 8  # special tokens and the cost of a row, in characters
_SMALL: Final = 10_000  # a request with at most this many characters is not refused because others wait


@dataclass(frozen=True, kw_only=True)
class Batching:
    """Size of the batches.

    Attributes:
        max_batch: requests that share a batch.
        wait_seconds: seconds that a request waits for others if none is running.
        batch_characters: characters of a batch; a batch has at least one text. None: 2,048 on a CPU and 65,536 on a GPU.
    """

    max_batch: int = 32
    wait_seconds: float = 0.005
    batch_characters: int | None = None


class _Job:
    """A request, and the part of it that has been computed."""

    def __init__(self, request: PredictRequest) -> None:
        self.request = request
        # By length: the texts of one batch have similar lengths, and texts that are too long fail first
        self.order = sorted(range(len(request.texts)), key=lambda index: -characters(request.texts[index]))
        self.position = 0  # in `order`, of the first text that has not been in a batch
        self.rows: dict[str, dict[int, bytes]] = {}  # task -> index of the text -> JSON
        self.done = self.bytes = 0  # number of these texts, and bytes of their JSON
        self.characters = sum(map(characters, request.texts))
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()


class Batcher:
    """Runs requests in batches, one batch at a time. Use it from one event loop.

    Every batch takes texts from all waiting requests in turn. So the time of a small request depends on the number of
    other requests, and not on the number of their texts. A batch that completes a request is not filled beyond a quarter with
    further texts of larger ones.
    """

    def __init__(self, predictor: Served, batching: Batching, limits: Limits) -> None:
        """Create a batcher without requests."""
        self._predictor, self._batching, self._limits = predictor, batching, limits
        on_gpu = predictor.provider in GPUS
        self._characters = batching.batch_characters or (_GPU_CHARACTERS if on_gpu else _CPU_CHARACTERS)
        self._waiting: deque[_Job] = deque()  # requests with texts that have not been in a batch
        self._accepted = self._accepted_characters = 0  # requests without a response
        self._full = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        # One thread: a pool would spread the memory of large requests over the arenas of many threads
        self._thread = ThreadPoolExecutor(1, "batches")

    async def submit(self, request: PredictRequest) -> bytes:
        """Compute a request.

        Returns:
            JSON of the response.

        Raises:
            InputError: a task or the drop is unknown, or the stride is too large.
            RequestError: the request fails, or it exceeds one of the limits.
        """
        entries = self._predictor.entries(request.tasks)
        if request.tasks is not None:  # looked up once: tasks may be replaced or removed between two batches
            request = replace(request, tasks=pinned(entries))
        check_drop(request.drop, self._predictor.drops, "loaded")
        request.check_stride(self._predictor.manifest.max_lengths.get(SEQUENCE))
        job = _Job(request)
        most = self._limits.max_waiting_characters
        if self._accepted and job.characters > _SMALL and self._accepted_characters + job.characters > most:
            found = f"{self._accepted_characters:,} in {self._accepted} requests and {job.characters:,} in this one"
            remedy = "try again later, or start the application with a larger max_waiting_characters or more replicas"
            message = f"expected at most max_waiting_characters={most:,} characters without a response, found {found}; {remedy}"
            raise RequestError(503, message, {"Retry-After": "1"})
        self._accepted += 1
        self._accepted_characters += job.characters
        try:
            self._enqueue(job)
            async with asyncio.timeout(self._limits.request_seconds):
                return await job.answer
        except TimeoutError as error:
            done = f"{job.done:,} of {len(request.texts):,} texts were done"
            raise RequestError(
                503,
                f"no response within request_seconds={self._limits.request_seconds:g} ({done}); send fewer texts or try again "
                "later, or start the application with a larger request_seconds or more replicas",
                {"Retry-After": "1"},
            ) from error
        finally:
            job.answer.cancel()  # also if the client has gone: the rest is not computed
            self._accepted -= 1
            self._accepted_characters -= job.characters

    def _enqueue(self, job: _Job) -> None:
        self._waiting.append(job)
        if len(self._waiting) >= self._batching.max_batch:
            self._full.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Run batches until no request waits."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._batching.wait_seconds):
                    await self._full.wait()
            while batch := self._next_batch():
                outcomes = await self._outcomes(batch)
                for (job, _), outcome in zip(batch, outcomes, strict=True):
                    if job.answer.done():  # it has timed out, or its client has gone
                        continue
                    if isinstance(outcome, RequestError):
                        job.answer.set_exception(outcome)
                    elif outcome is not None:
                        job.answer.set_result(outcome)
        finally:
            self._running = None
            self._full.clear()

    async def _outcomes(self, batch: Sequence[tuple[_Job, list[int]]]) -> list[bytes | RequestError | None]:
        """Compute a batch; an error outside of the requests' own computation, such as of memory, is that of all of them."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, batch)
        except Exception:
            _LOGGER.exception("a batch failed")
            return [RequestError(500, "the batch of this request failed; the log of the replica has the reason")] * len(batch)

    def _next_batch(self) -> list[tuple[_Job, list[int]]]:
        """Take one text from each waiting request in turn until the batch is full; return them by request."""
        parts: dict[_Job, list[int]] = {}
        left = self._characters
        completes = False
        while self._waiting:
            job = self._waiting[0]
            if job.answer.done():
                self._waiting.popleft()
                continue
            index = job.order[job.position]
            cost = characters(job.request.texts[index]) + _PER_TEXT
            if parts and (cost > left or (job not in parts and len(parts) == self._batching.max_batch)):
                break
            if completes and job in parts and left < 0.75 * self._characters:  # all requests have a text in this batch
                break
            self._waiting.popleft()
            parts.setdefault(job, []).append(index)
            left -= cost
            job.position += 1
            if job.position < len(job.order):
                self._waiting.append(job)
            else:
                completes = True
        return [(job, sorted(indices)) for job, indices in parts.items()]

    def _compute(self, batch: Sequence[tuple[_Job, list[int]]]) -> list[bytes | RequestError | None]:
        """Run a batch in the thread; return the response or the error of each request, None for an incomplete one."""
        parts = [replace(job.request, texts=tuple(job.request.texts[index] for index in rows)) for job, rows in batch]
        outcomes: list[bytes | RequestError | None] = []
        for (job, rows), (status, body) in zip(batch, respond(self._predictor, parts), strict=True):
            if status == 200:
                outcomes.append(self._add(job, rows, body))
            else:
                outcomes.append(RequestError(status, _renumbered(body["error"], rows)))
        return outcomes

    def _add(self, job: _Job, indices: Sequence[int], body: Mapping[str, Any]) -> bytes | RequestError | None:
        # As JSON, which takes a fraction of the memory of the objects
        for task, rows in body["predictions"].items():
            texts = dict(zip(indices, map(to_json, rows), strict=True))
            job.rows.setdefault(task, {}).update(texts)
            job.bytes += sum(map(len, texts.values()))
        job.done += len(indices)
        if job.bytes > (most := self._limits.max_response_bytes):
            expected = f"expected predictions of at most max_response_bytes={most:,} bytes, found more after {job.done:,} texts"
            remedy = "send fewer texts or name fewer tasks, or start the application with a larger max_response_bytes"
            return RequestError(413, f"{expected}; {remedy}")
        if job.done < len(job.order):
            return None
        tasks = [
            to_json(task) + b":[" + b",".join(rows.pop(index) for index in range(len(job.order))) + b"]"
            for task, rows in job.rows.items()
        ]
        return b'{"provider":' + to_json(body["provider"]) + b',"predictions":{' + b",".join(tasks) + b"}}"


def to_json(value: object) -> bytes:
    """Return compact JSON. A lone surrogate, which has no encoding, becomes an escape sequence."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _renumbered(message: str, indices: Sequence[int]) -> str:
    """Replace the numbers of texts in a batch by those in the request."""
    return re.sub(r"\btexts\[(\d{1,9})\]", lambda found: f"texts[{_at(indices, int(found[1]))}]", message)


def _at(indices: Sequence[int], position: int) -> int:
    return indices[position] if position < len(indices) else position
