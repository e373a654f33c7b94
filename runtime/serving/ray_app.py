"""Ray Serve application for a bundle: `serve run runtime.serving.ray_app:app folder=onnx`.

Ray Serve provides the HTTP server, replicas, health checks, queues and shutdown; this module implements one replica.

Request: POST {"texts": [...], "tasks": [...], "drop": N, "truncate": false}; only `texts` is required, and the further options
of `Predictor.predict` have their names there. Response: {"provider": ..., "predictions": {task: [...]}}, or {"error": ...} with
status 400 for invalid input, 408, 413, 422 or 503 if a limit is exceeded, and 500 if the model fails. Status 503 also comes
from Ray Serve if `max_queued` requests are waiting. Concurrent requests share batches; an error in one of them does not affect
the others.

With `task_files`, a folder of files of `python -m exporter task`, requests may also name these tasks. A replica loads a task
with the first request for it. Ray Serve sends requests with the header `serve_multiplexed_model_id: TASK` to a replica that has
it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields, replace
from typing import Any, Final

from ray import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from runtime.errors import InputError
from runtime.load_bundle import load
from runtime.ort.node_counts import example_feeds
from runtime.serving.batcher import Batcher, Batching, to_json
from runtime.serving.body import BodyReader
from runtime.serving.limits import Limits, RequestError
from runtime.serving.request import PredictRequest, check_headers, respond
from runtime.serving.task_folder import TaskFolder

__all__ = ["PredictRequest", "Replica", "app", "respond"]

_LONGEST_ERROR: Final = 2_000  # characters of a message; it may repeat parts of the request
_LEAST: Final = {"max_queued": -1}  # -1: no limit


class Replica:
    """A replica of the application, with a loaded bundle."""

    def __init__(
        self,
        folder: str,
        provider: str,
        threads: int | None,
        batching: Batching,
        limits: Limits,
        task_files: str = "",
        max_tasks: int = 64,
    ) -> None:
        """Load the bundle; the arguments are those of `app`."""
        self._predictor = load(folder, provider=provider, threads=threads)
        self._predictor.prepare()  # opens all graphs before the first request
        self._limits = limits
        self._bodies = BodyReader(limits)
        self._batcher = Batcher(self._predictor, batching, limits)
        self._bundled = frozenset(self._predictor.tasks)
        self._load_task: Callable[[str], Awaitable[None]] | None = None
        if task_files:
            tasks = TaskFolder(task_files, self._predictor)

            async def load_task(name: str) -> None:
                await asyncio.to_thread(tasks.load, name)

            # Ray remembers which replica has loaded which task, and loads one that it has forgotten again. What it forgets is
            # not removed: requests for it may be waiting, and the weights are in slots, which are reused anyway
            remembered = serve.multiplexed(max_num_models_per_replica=max_tasks)(load_task)

            async def load_current(name: str) -> None:
                await remembered(name)
                if not tasks.is_current(name):  # its file has been replaced or deleted since
                    await load_task(name)

            self._load_task = load_current

    async def __call__(self, request: Request) -> Response:
        """Handle one HTTP request."""
        try:
            check_headers(request.method, request.headers)
            parsed = PredictRequest.parse(await self._bodies.read(request.headers, request.stream()), self._limits)
            return Response(await self._batcher.submit(await self._with_tasks(parsed)), media_type="application/json")
        except RequestError as error:
            return _error(error.status, str(error), error.headers)
        except InputError as error:
            return _error(400, str(error))
        except ClientDisconnect:
            return _error(400, "body: the client has disconnected")

    async def _with_tasks(self, request: PredictRequest) -> PredictRequest:
        """Load the tasks of a request that are files; its header names the tasks if its body does not.

        Raises:
            InputError: there is no such task.
        """
        if self._load_task is None:
            return request
        header = serve.get_multiplexed_model_id()
        if request.tasks is None and header:
            request = replace(request, tasks=(header,))
        for name in dict.fromkeys(request.tasks or ()):
            if isinstance(name, str) and name and name not in self._bundled:
                await self._load_task(name)
        return request

    def check_health(self) -> None:
        """Run the graph once. An exception makes Ray Serve replace the replica."""
        self._predictor.run(example_feeds(self._predictor.manifest))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application.

    Args:
        arguments: `folder` is required. Optional, with their defaults: `provider` ("auto"), `threads` (None), `replicas` (1),
            `max_queued` (256 requests, then status 503), `max_ongoing` (64 requests per replica), `task_files` (a folder with
            files of further tasks, ""), `max_tasks` (Ray remembers up to 64 per replica; set it to the number of slots), and
            the fields of `Batching` and `Limits`. `max_reading` is half of `max_ongoing` by default.

    Returns:
        The application for `serve.run`.

    Raises:
        InputError: an argument is missing, unknown or invalid.
    """
    batching, limits = asdict(Batching()), asdict(Limits())
    defaults = {"provider": "auto", "threads": None, "replicas": 1, "max_queued": 256, "max_ongoing": 64}
    defaults |= {"task_files": "", "max_tasks": 64, **batching, **limits}
    if unknown := arguments.keys() - {"folder", *defaults}:
        raise InputError(f"arguments: expected folder, {', '.join(defaults)}, found {', '.join(sorted(unknown))}")
    if "folder" not in arguments:
        raise InputError("arguments: expected folder=DIR, the folder that `python -m exporter` wrote")
    given = {name: _value(name, value, defaults) for name, value in (defaults | arguments).items()}
    if "max_reading" not in arguments:
        given["max_reading"] = max(1, given["max_ongoing"] // 2)
    deployment = serve.deployment(
        name="adapterdrop",
        num_replicas=given["replicas"],
        max_queued_requests=given["max_queued"],
        max_ongoing_requests=given["max_ongoing"],
        graceful_shutdown_timeout_s=30,  # time to finish accepted requests
        health_check_period_s=10,
    )(Replica)
    return deployment.bind(
        given["folder"],
        given["provider"],
        given["threads"],
        Batching(**{field.name: given[field.name] for field in fields(Batching)}),
        Limits(**{field.name: given[field.name] for field in fields(Limits)}),
        given["task_files"],
        given["max_tasks"],
    )


def _value(name: str, value: Any, defaults: dict[str, Any]) -> Any:
    """Return an argument, which is a string if it comes from a command line, as a value of the type of its default."""
    if name in ("folder", "provider", "task_files"):
        return str(value)
    if defaults[name] is None and value in (None, "None", ""):
        return None
    number: int | float
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not isinstance(defaults[name], float) and value % 1):
            raise TypeError  # noqa: TRY301 - as of int() and float()
        number = float(value) if isinstance(defaults[name], float) else int(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = "a number" if isinstance(defaults[name], float) else "an integer"
        raise InputError(f"arguments: {name}: expected {kind}, found {value!r}") from error
    least = _LEAST.get(name, 0 if isinstance(number, float) else 1)
    if not number >= least:
        raise InputError(f"arguments: {name}: expected at least {least}, found {value!r}")
    return number


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    shown = message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}…"
    return Response(to_json({"error": shown}), status, headers, "application/json")
