"""Ray Serve application for a bundle: `serve run runtime.serving.ray_app:app folder=onnx`.

Ray Serve provides the HTTP server, replicas, health checks, queues and shutdown; this module implements one replica.

Request: POST {"texts": [...], "tasks": [...], "drop": N, "truncate": false}; only `texts` is required. Response: {"provider":
..., "predictions": {task: [...]}}; status 400 with {"error": ...} for invalid input; status 503 from Ray Serve if `max_queued`
requests are waiting. Concurrent requests share batches.
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
class PredictRequest:
    """Body of one request. Its fields are checked here; the predictor checks the contents of `texts` and `tasks`.

    Attributes:
        texts: texts and pairs of texts.
        tasks: names of the tasks; None for all tasks.
        drop: drop of the variant; None for the default.
        truncate: truncate texts that exceed the model's maximum.
    """

    texts: tuple[Any, ...]
    tasks: tuple[str, ...] | None
    drop: int | None
    truncate: bool

    @classmethod
    def parse(cls, body: bytes) -> "PredictRequest":
        """Parse the body of an HTTP request.

        Raises:
            InputError: the body is not valid JSON, or a field is unknown, missing or invalid.
        """
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


def respond(predictor: Predictor, requests: Sequence[PredictRequest]) -> list[tuple[int, dict[str, Any]]]:
    """Run inference for several requests.

    Requests with the same options share one call of `predict`. If that call rejects its input, each request is run
    separately, so that an invalid request does not affect the others.

    Returns:
        HTTP status and body per request.
    """
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    groups: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault((request.tasks, repr(request.drop), request.truncate), []).append(index)
    for members in groups.values():
        try:
            found |= _predict_together(predictor, requests, members)
        except InputError as error:
            if len(members) == 1:
                found[members[0]] = 400, {"error": str(error)}
                continue
            for index in members:
                (found[index],) = respond(predictor, [requests[index]])
    return [found[index] for index in range(len(requests))]


def _predict_together(
    predictor: Predictor, requests: Sequence[PredictRequest], members: Sequence[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    first = requests[members[0]]
    texts = [text for index in members for text in requests[index].texts]
    predictions = predictor.predict(texts, first.tasks, first.drop, first.truncate)
    found, start = {}, 0
    for index in members:
        end = start + len(requests[index].texts)
        rows = {task: [row.to_dict() for row in results[start:end]] for task, results in predictions.items()}
        found[index] = 200, {"provider": predictor.provider, "predictions": rows}
        start = end
    return found


class Replica:
    """A replica of the application, with a loaded bundle."""

    def __init__(self, folder: str, provider: str, threads: int | None, max_batch: int, wait_seconds: float) -> None:
        """Load the bundle; the arguments are those of `app`."""
        self._predictor = load(folder, provider=provider, threads=threads)
        self._predictor.prepare()  # opens all graphs before the first request
        self._predict.set_max_batch_size(max_batch)
        self._predict.set_batch_wait_timeout_s(wait_seconds)

    async def __call__(self, request: Request) -> JSONResponse:
        """Handle one HTTP request."""
        try:
            parsed = PredictRequest.parse(await request.body())
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)
        status, body = await self._predict(parsed)
        return JSONResponse(body, status)

    @serve.batch  # type: ignore[untyped-decorator]  # Ray has no types
    async def _predict(self, requests: list[PredictRequest]) -> list[tuple[int, dict[str, Any]]]:
        # In a thread: the replica accepts requests and health checks while ONNX Runtime computes
        return await asyncio.to_thread(respond, self._predictor, requests)

    def check_health(self) -> None:
        """Run the graph once. An exception makes Ray Serve replace the replica."""
        self._predictor.run(example_feeds(self._predictor.manifest))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application.

    Args:
        arguments: `folder` is required. Optional, with their defaults: `provider` ("auto"), `threads` (None), `replicas` (1),
            `max_batch` (32 requests), `wait_seconds` (0.005, time for a batch to fill), `max_queued` (256 requests, then
            status 503) and `max_ongoing` (64 requests per replica).

    Returns:
        The application for `serve.run`.

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
        graceful_shutdown_timeout_s=30,  # time to finish accepted requests
        health_check_period_s=10,
    )
    return deployment.bind(
        str(given["folder"]), str(given["provider"]), threads, int(given["max_batch"]), float(given["wait_seconds"])
    )
