"""The Ray Serve application, which loses a replica. tests/runtime/serving/test_requests.py tests requests without Ray."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import runtime
from tests.helpers.local_http import PATIENCE, send
from tests.helpers.local_ray import served

serve = pytest.importorskip("ray.serve", reason="needs ray[serve], which the extra `test` installs")
TEXTS = [f"text number {index}" for index in range(24)]
PLACES, QUEUED = 12, 24  # requests per replica, and those that wait for a place


@pytest.fixture(scope="module")
def url(serve_url: str, bundle: Path) -> Iterator[str]:
    places = {"max_ongoing": PLACES, "max_reading": PLACES, "max_queued": QUEUED, "body_seconds": PATIENCE}
    with served(bundle, places | {"wait_seconds": 0.05}):
        yield serve_url


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


@pytest.mark.sweep  # test_serve_tasks.py also sends requests to replicas
def test_a_local_ray_serves_it(url: str, predictor: runtime.Predictor) -> None:
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        answers = list(pool.map(lambda text: send(url, {"texts": [text]}), TEXTS))
    for (status, body), topic in zip(answers, predictor.predict(TEXTS)["topic"], strict=True):
        assert status == 200
        assert body["provider"] == "cpu"
        assert body["predictions"]["topic"][0]["scores"] == pytest.approx(dict(topic.scores), abs=1e-5)
    status, body = send(url, {"texts": ["word " * 99]})
    assert status == 400
    assert "at most 16 tokens" in body["error"]
    assert serve.status().applications["default"].status == "RUNNING"


@pytest.mark.sweep
def test_a_killed_replica_is_replaced_and_no_answer_is_wrong(url: str, predictor: runtime.Predictor) -> None:
    texts = TEXTS[:8]
    wanted = [dict(topic.scores) for topic in predictor.predict(texts)["topic"]]
    found: list[int] = []
    done = threading.Event()

    def ask(index: int) -> None:
        while not done.is_set():
            status, body = send(url, {"texts": [texts[index]]})
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
        futures = [pool.submit(ask, index) for index in range(len(texts))]
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
