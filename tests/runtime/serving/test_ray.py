"""The Ray Serve application in a local Ray that loses a replica. test_requests.py tests the work of a replica without Ray."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import runtime

serve = pytest.importorskip("ray.serve", reason="needs ray[serve], which the extra `test` installs")
ray = pytest.importorskip("ray")

ROOT = Path(runtime.__file__).parents[1]
TEXTS = [f"text number {index}" for index in range(24)]
PLACES, QUEUED = 12, 24  # requests per replica, and those that wait for a place
PATIENCE = 120  # seconds after which a test fails instead of waiting without end; a quiet machine needs a few


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    """The address of a local Ray with two replicas of the bundle. Its CPUs are slots, not cores."""
    from runtime.serving.ray_app import app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Three CPUs: Ray starts a process for each, and each of the two replicas takes one
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    settings = {"num_cpus": 3, "object_store_memory": 10**8, "include_dashboard": False, "log_to_driver": False}
    ray.init("local", runtime_env=environment, **settings)
    try:
        serve.start(http_options={"port": port})
        places = {"max_ongoing": PLACES, "max_reading": PLACES, "max_queued": QUEUED, "body_seconds": PATIENCE}
        arguments = {"folder": str(bundle), "provider": "cpu", "threads": 1, "replicas": 2, "wait_seconds": 0.05}
        serve.run(app(arguments | places))
        yield f"http://127.0.0.1:{port}/"
    finally:
        ray.shutdown()


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310 - http, to this machine
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {PATIENCE} s"
        time.sleep(0.05)


def replicas() -> set[int]:
    """The process ids of the replicas."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "ServeReplica" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def test_a_local_ray_serves_it(url: str, predictor: runtime.Predictor) -> None:
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        answers = list(pool.map(lambda text: post(url, {"texts": [text]}), TEXTS))
    for (status, body), topic in zip(answers, predictor.predict(TEXTS)["topic"], strict=True):
        assert status == 200
        assert body["provider"] == "cpu"
        assert body["predictions"]["topic"][0]["scores"] == pytest.approx(dict(topic.scores), abs=1e-5)
    status, body = post(url, {"texts": ["word " * 99]})
    assert status == 400
    assert b"at most 16 tokens" in body
    assert serve.status().applications["default"].status == "RUNNING"


def test_a_killed_replica_is_replaced_and_no_answer_is_wrong(url: str, predictor: runtime.Predictor) -> None:
    texts = TEXTS[:8]
    wanted = [dict(topic.scores) for topic in predictor.predict(texts)["topic"]]
    found: list[int] = []
    done = threading.Event()

    def send(index: int) -> None:
        while not done.is_set():
            status, body = post(url, {"texts": [texts[index]]})
            found.append(status)
            if status == 200:
                assert body["predictions"]["topic"][0]["scores"] == pytest.approx(wanted[index], abs=1e-5)

    def answered(more: int) -> None:
        """Waits for so many more answers of all threads together; fails where a thread has failed."""
        total = len(found) + more
        wait_until(lambda: len(found) >= total or any(each.done() for each in futures), f"{more} more answers")

    before = replicas()
    assert len(before) == 2
    with ThreadPoolExecutor(len(texts)) as pool:
        futures = [pool.submit(send, index) for index in range(len(texts))]
        try:
            answered(40)
            assert set(found) == {200}
            psutil.Process(min(before)).kill()
            wait_until(lambda: len(replicas() - before) == 1 and _running() == 2, "another replica")
            answered(2 * len(texts))  # those that were on their way
            recovered = len(found)
            answered(40)
        finally:
            done.set()
        for future in futures:
            future.result()  # raises if a result was wrong
    assert set(found) <= {200, 500, 503}, "requests in progress must be lost with an error status"
    assert set(found[recovered:]) == {200}
    assert len(replicas() - before) == 1


def _running() -> int:
    states = serve.status().applications["default"].deployments["adapterdrop"].replica_states
    return int(states.get("RUNNING", 0))
