"""FastAPI service for a bundle: batches over requests, limits, health, metrics, KServe v2 and graceful shutdown.

python examples/serving/server.py onnx --port 8000
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from kserve import add_kserve
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.auto import AutoHTTPProtocol

import runtime
from runtime.checks.requests import PREDICTED
from runtime.ort.node_counts import example_feeds
from runtime.serving.batcher import Batcher, Batching, to_json
from runtime.serving.body import BodyReader
from runtime.serving.limits import Limits, RequestError
from runtime.serving.metrics import Metrics
from runtime.serving.request import PredictRequest, check_headers

LONGEST_ERROR = 2_000  # characters; a message may repeat parts of the request


def create(
    predictor: runtime.Predictor,
    batching: Batching | None = None,
    limits: Limits | None = None,
    registry: CollectorRegistry = REGISTRY,
    name: str = "adapterdrop",
) -> FastAPI:
    """Return the service of a loaded bundle.

    Args:
        predictor: the bundle.
        batching: size of the batches.
        limits: limits of requests.
        registry: registry of the metrics that /metrics shows.
        name: name of the model in KServe's protocol.

    Raises:
        InputError: no task of the bundle can be predicted from texts, such as those of images and embeddings.
    """
    limits = limits or Limits()
    # Raises if the bundle takes no texts; every head takes a pair.
    predictor.predict([("a", "b")], [task.name for task in predictor.manifest.tasks if task.head in PREDICTED] or None)
    bodies = BodyReader(limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        predictor.prepare()  # opens all graphs before the first request
        app.state.batcher = Batcher(predictor, batching or Batching(), limits)
        app.state.ready = True
        yield  # uvicorn finishes the requests in progress before it goes on
        app.state.ready = False

    app = FastAPI(title=name, lifespan=lifespan)
    app.state.ready = False

    async def body(request: Request) -> bytearray:
        check_headers(request.method, request.headers)
        return await bodies.read(request.headers, request.stream())

    async def submit(request: PredictRequest) -> bytes:
        batcher: Batcher = app.state.batcher
        return await batcher.submit(request)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        parsed = PredictRequest.parse(await body(request), limits)
        return Response(await submit(parsed), media_type="application/json")

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        """Whether the graph runs; not in the thread of the batches, so that a full queue does not make a service unhealthy."""
        if app.state.ready:
            await asyncio.to_thread(predictor.run, example_feeds(predictor.manifest))
        return JSONResponse({"ready": app.state.ready}, 200 if app.state.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    add_kserve(app, predictor, name, limits, body, submit)
    _add_errors(app)
    return app


def _add_errors(app: FastAPI) -> None:
    def handler(status: Callable[[Any], int]) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(_: Request, error: Exception) -> Response:
            body = to_json({"error": str(error)[:LONGEST_ERROR]})  # which may repeat a lone surrogate
            return Response(body, status(error), getattr(error, "headers", None), "application/json")

        return handle

    app.add_exception_handler(RequestError, handler(lambda error: error.status))
    app.add_exception_handler(runtime.InputError, handler(lambda _: 400))
    app.add_exception_handler(HTTPException, handler(lambda error: error.status_code))  # an unknown address or method
    app.add_exception_handler(ClientDisconnect, handler(lambda _: 400))


def main(arguments: list[str] | None = None) -> None:
    """Serve a bundle until SIGTERM; requests in progress are finished."""
    parser = argparse.ArgumentParser(description="Serve an exported folder over HTTP.")
    parser.add_argument("folder", help="folder that the export wrote, or a hub id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--connections", type=_count, default=256, help="open connections; further ones get status 503")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"one of {', '.join(field.name for field in fields(Limits))}",
    )
    given = parser.parse_args(arguments)
    try:
        limits = Limits(**dict(map(_limit, given.limit)))
        predictor = runtime.load(given.folder, provider=given.provider, threads=given.threads, hooks=[Metrics()])
        app = create(predictor, limits=limits)
    except (ValueError, runtime.AdapterDropError) as error:
        parser.exit(2, f"error: {error}\n")
    uvicorn.run(
        app,
        host=given.host,
        port=given.port,
        limit_concurrency=given.connections,
        http=_with_deadline(limits.body_seconds),
        timeout_graceful_shutdown=int(limits.request_seconds),
        log_level="warning",
    )


def _with_deadline(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a limit on the time of the headers, which uvicorn lacks.

    Clients that send none would otherwise take all connections, and keep them.
    """
    base: Any = AutoHTTPProtocol  # that of httptools where it is installed

    class Protocol(base):  # type: ignore[misc,unused-ignore]
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:  # a request; its body has its own limit
                self._stop()
            elif self.timer is None:
                self.timer = asyncio.get_running_loop().call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = None

    return Protocol


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return int(text)


def _limit(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    kinds = {field.name: field.type for field in fields(Limits)}
    if not equals or name not in kinds:
        raise ValueError(f"--limit: expected NAME=VALUE with one of {', '.join(kinds)}, found {text!r}")
    try:
        return name, int(value) if kinds[name] is int else float(value)
    except ValueError as error:
        raise ValueError(f"--limit: {name}: expected a number, found {value!r}") from error


if __name__ == "__main__":
    main()
