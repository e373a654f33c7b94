"""The Ray Serve application without a running Ray: its arguments, and the HTTP responses of a replica."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import runtime

pytest.importorskip("ray.serve", reason="needs ray[serve], which the extra `test` installs")


def test_invalid_arguments_are_refused() -> None:
    from runtime.serving.ray_app import app

    with pytest.raises(runtime.InputError, match="expected folder=DIR"):
        app({})
    for argument, value, message in (
        ("max_text", "9", "expected folder, provider, .*max_texts, .* found max_text"),
        ("max_texts", "many", "max_texts: expected an integer, found 'many'"),
        ("max_texts", "0", "max_texts: expected at least 1, found '0'"),
        ("body_seconds", "x", "body_seconds: expected a number, found 'x'"),
        ("body_seconds", "0", "body_seconds: expected a positive number, found 0"),
        ("wait_seconds", "nan", "wait_seconds: expected at least 0, found 'nan'"),
        ("replicas", None, "replicas: expected an integer, found None"),
        ("replicas", 1.9, "replicas: expected an integer, found 1.9"),
        ("max_texts", True, "max_texts: expected an integer, found True"),
    ):
        with pytest.raises(runtime.InputError, match=message):
            app({"folder": "onnx", argument: value})


def test_arguments_of_a_command_line_are_strings() -> None:
    from runtime.serving.ray_app import app

    deployment: Any = app(
        {"folder": "onnx", "threads": "None", "max_ongoing": "10", "max_texts": "7", "max_queued": "9"}
    )._bound_deployment
    folder, provider, threads, batching, limits, task_files, max_tasks = deployment.init_args
    assert (folder, provider, threads, deployment.max_ongoing_requests) == ("onnx", "auto", None, 10)
    assert (task_files, max_tasks) == ("", 64)
    assert deployment.max_queued_requests == 9  # Ray itself rejects further requests
    assert (batching.batch_characters, limits.max_texts, limits.max_reading) == (None, 7, 5)


def test_responses_of_a_replica(bundle: Path) -> None:
    from starlette.requests import Request

    from runtime.serving.batcher import Batching
    from runtime.serving.limits import Limits
    from runtime.serving.ray_app import Replica

    replica = Replica(str(bundle), "cpu", 1, Batching(), Limits(body_seconds=0.1))

    def send(body: bytes, method: str = "POST", complete: bool = True, kind: str = "application/json") -> Any:
        messages = [{"type": "http.request", "body": body, "more_body": not complete}]

        async def receive() -> dict[str, Any]:
            if not messages:
                await asyncio.sleep(60)
            return messages.pop()

        scope = {"type": "http", "method": method, "headers": [(b"content-type", kind.encode())]}
        return asyncio.run(replica(Request(scope, receive)))

    answer = send(b'{"texts": ["one"], "tasks": ["topic"]}')
    assert (answer.status_code, answer.media_type) == (200, "application/json")
    assert json.loads(answer.body)["provider"] == "cpu"
    unknown = send(b'{"texts": ["one"], "\\ud800": 1}').body
    assert unknown.startswith(b'{"error":"body: expected texts, tasks, drop, truncate, ')
    assert unknown.endswith(rb"""found '\\ud800'"}""")
    for response, status, header in (
        (send(b"[" * 100_000), 400, None),
        (send(b"{}", "GET"), 405, ("allow", "POST")),
        (send(b'{"texts"', complete=False), 408, ("connection", "close")),
        (send(b"{}", kind="text/html"), 415, None),
        (send(json.dumps({"texts": ["a"], "tasks": ["x" * 9] * 999}).encode()), 400, None),
    ):
        assert response.status_code == status
        assert len(json.loads(response.body)["error"]) <= 2_001
        assert header is None or response.headers[header[0]] == header[1]
    replica.check_health()
