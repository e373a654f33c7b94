"""A Ray Serve application over a bundle: `serve run runtime.serving.ray_app:app folder=onnx`.

Ray Serve brings the HTTP server, replicas, health checks, queues and shutdown; what is here is the work of one replica. POST
{"texts": [...], "tasks": [...], "drop": N, "truncate": false}, all but texts optional, is answered by {"provider": ...,
"predictions": {task: [...]}}; 400 and {"error": ...} for bad input, and by Serve's own 503 where `max_queued` requests wait.
Requests that arrive together share batches.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from runtime.errors import InputError
from runtime.load import load
from runtime.ort.node_counts import example_feeds
from runtime.predictor import Predictor


@dataclass(frozen=True)
class Question:
    """One request's body, checked for its fields; `texts` and `tasks` are checked by the predictor."""

    texts: tuple[Any, ...]
    tasks: tuple[str, ...] | None
    drop: int | None
    truncate: bool

    @classmethod
    def parse(cls, body: bytes) -> "Question":
        """Raises InputError, which names what is wrong."""
        try:
            document = json.loads(body)
        except ValueError as error:
            raise InputError(f"body: expected JSON, found: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"body: expected an object, found {type(document).__name__}")
        if unknown := document.keys() - {"texts", "tasks", "drop", "truncate"}:
            raise InputError(f"body: expected texts, tasks, drop and truncate, found {', '.join(sorted(unknown))}")
        texts, tasks, truncate = document.get("texts"), document.get("tasks"), document.get("truncate", False)
        if not isinstance(texts, list) or not texts:
            raise InputError("body: texts: expected a list with at least one text")
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(name, str) for name in tasks)):
            raise InputError("body: tasks: expected a list of names")
        if not isinstance(truncate, bool):
            raise InputError("body: truncate: expected true or false")
        parts = tuple(tuple(text) if isinstance(text, list) else text for text in texts)
        return cls(parts, None if tasks is None else tuple(tasks), document.get("drop"), truncate)


def answer(predictor: Predictor, questions: Sequence[Question]) -> list[tuple[int, dict[str, Any]]]:
    """HTTP status and body for each question. Questions of equal options are predicted together; where that is refused, one by
    one, so that a faulty one fails alone."""
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    groups: dict[Any, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault((question.tasks, repr(question.drop), question.truncate), []).append(index)
    for members in groups.values():
        try:
            found |= _together(predictor, questions, members)
        except InputError as error:
            if len(members) == 1:
                found[members[0]] = 400, {"error": str(error)}
                continue
            for index in members:
                (found[index],) = answer(predictor, [questions[index]])
    return [found[index] for index in range(len(questions))]


def _together(
    predictor: Predictor, questions: Sequence[Question], members: Sequence[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    first = questions[members[0]]
    texts = [text for index in members for text in questions[index].texts]
    predictions = predictor.predict(texts, first.tasks, first.drop, first.truncate)
    found, start = {}, 0
    for index in members:
        end = start + len(questions[index].texts)
        rows = {task: [row.to_dict() for row in answers[start:end]] for task, answers in predictions.items()}
        found[index] = 200, {"provider": predictor.provider, "predictions": rows}
        start = end
    return found


class Replica:
    """One replica: a loaded bundle."""

    def __init__(self, folder: str, provider: str, threads: int | None, max_batch: int, wait_seconds: float) -> None:
        self._predictor = load(folder, provider=provider, threads=threads)
        self._predictor.prepare()  # before the first request, not within it
        self._ask.set_max_batch_size(max_batch)
        self._ask.set_batch_wait_timeout_s(wait_seconds)

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            question = Question.parse(await request.body())
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)
        status, body = await self._ask(question)
        return JSONResponse(body, status)

    @serve.batch  # type: ignore[untyped-decorator]
    async def _ask(self, questions: list[Question]) -> list[tuple[int, dict[str, Any]]]:
        # In a thread: the replica answers health checks and takes requests while ONNX Runtime computes
        return await asyncio.to_thread(answer, self._predictor, questions)

    def check_health(self) -> None:
        """Raises where the graph does not run any more; Serve then replaces the replica."""
        self._predictor.run(example_feeds(self._predictor.manifest))


def app(arguments: dict[str, Any]) -> serve.Application:
    """The application. `arguments`: folder; optional provider ("auto"), threads (None), replicas (1), max_batch (32 requests),
    wait_seconds (0.005, for a batch to fill), max_queued (256 requests, then 503) and max_ongoing (64 requests a replica).

    Raises:
        InputError: an argument is missing or unknown.
    """
    defaults = {
        "provider": "auto",
        "threads": None,
        "replicas": 1,
        "max_batch": 32,
        "wait_seconds": 0.005,
        "max_queued": 256,
        "max_ongoing": 64,
    }
    if unknown := arguments.keys() - {"folder", *defaults}:
        raise InputError(f"arguments: expected folder, {', '.join(defaults)}, found {', '.join(sorted(unknown))}")
    if "folder" not in arguments:
        raise InputError("arguments: expected folder=DIR, the folder that `python -m exporter` wrote")
    given = defaults | arguments
    threads = None if given["threads"] is None else int(given["threads"])
    deployment = serve.deployment(
        Replica,
        name="adapterdrop",
        num_replicas=int(given["replicas"]),
        max_queued_requests=int(given["max_queued"]),
        max_ongoing_requests=int(given["max_ongoing"]),
        graceful_shutdown_timeout_s=30,  # requests that were taken are answered
        health_check_period_s=10,
    )
    return deployment.bind(
        str(given["folder"]), str(given["provider"]), threads, int(given["max_batch"]), float(given["wait_seconds"])
    )
