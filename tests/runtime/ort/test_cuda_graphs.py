"""CUDA graphs, and the lock during their capture. On a CPU the path is the same, without a graph."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.bundle import read_manifest
from runtime.ort.cuda_graphs import CapturedGraphs
from runtime.ort.device_lock import SharedLock
from runtime.ort.node_counts import example_feeds
from tests.helpers.runtime_bundles import expected, feeds, write_bundle


class Noting:
    """A session that notes which thread ran it and with which annotation."""

    def __init__(self, session: Any) -> None:
        self.session, self.runs = session, Counter[tuple[str, str]]()

    def run(self, outputs: Any, given: Any, options: Any) -> Any:
        self.runs[threading.current_thread().name, options.get_run_config_entry("gpu_graph_id")] += 1
        return self.session.run(outputs, given, options)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs[threading.current_thread().name, options.get_run_config_entry("gpu_graph_id")] += 1
        self.session.run_with_iobinding(binding, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("graphs") / "bundle", tokenizer=False)


@pytest.fixture
def session(bundle: Path) -> Noting:
    return Noting(runtime.load(bundle, provider="cpu", threads=1)._bundle.sessions["model.onnx"])


def _captured(session: Any, bundle: Path, *shapes: tuple[int, int]) -> CapturedGraphs:
    found = CapturedGraphs(session, shapes, "cpu", 0)
    found.capture(functools.partial(example_feeds, read_manifest(bundle)))
    return found


def test_captured_shapes_answer_as_plain_ones(session: Noting, bundle: Path) -> None:
    runner = _captured(session, bundle, (2, 5), (1, 3), (2, 5))
    # To capture: one plain run for the shapes of the outputs, then the graph's own.
    (name,) = {thread for thread, _ in session.runs}
    assert session.runs == {(name, "-1"): 2, (name, "1"): 1, (name, "2"): 1}
    given = [feeds(*shape) for shape in [(2, 5), (1, 3), (3, 4)] * 8]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: runner.run(["names", "topic"], each), given))
    for each, (names, topic) in zip(given, answers, strict=True):
        np.testing.assert_allclose(names, expected(each)["names"], atol=1e-5)
        np.testing.assert_allclose(topic, expected(each)["topic"], atol=1e-5)
    # ONNX Runtime keeps graphs by thread
    assert session.runs == {(name, "-1"): 10, (name, "1"): 9, (name, "2"): 9}


def test_values_on_the_device_outlive_later_runs(session: Noting, bundle: Path) -> None:
    runner = _captured(session, bundle, (2, 5))
    given = [{**feeds(2, 5), "input_ids": feeds(2, 5)["input_ids"] // factor} for factor in (1, 2, 3)]
    values = [runner.run_on_device(["topic"], each)[0] for each in given]
    for each, value in zip(given, values, strict=True):
        np.testing.assert_allclose(value.numpy(), expected(each)["topic"], atol=1e-5)


def test_a_shape_that_the_model_does_not_take_is_refused(session: Noting, bundle: Path) -> None:
    with pytest.raises(runtime.InputError, match=r"cuda\.graphs: .*found \(2, 17\), for which the inputs have \(2, 16\)"):
        _captured(session, bundle, (2, 17))


def test_a_cancelled_call_does_not_run(session: Noting, bundle: Path) -> None:
    runner, handle = _captured(session, bundle, (2, 5)), runtime.Cancellation()
    with handle.run_options() as options:
        handle.cancel()
        with pytest.raises(Exception, match=r"(?i)terminat"):
            runner.run(["topic"], feeds(3, 4), options)


def test_the_lock_is_shared_or_exclusive() -> None:
    lock, held, problems = SharedLock(), Counter[str](), list[str]()
    guard = threading.Lock()

    def work(number: int) -> None:
        for _ in range(50):
            kind = "exclusive" if number == 0 else "shared"
            with getattr(lock, kind)():
                with guard:
                    held[kind] += 1
                    if held["exclusive"] and held.total() > 1:
                        problems.append(str(dict(held)))
                with guard:
                    held[kind] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [0, 0, 1, 1, 1, 1]))
    assert problems == []
    assert lock.during(lambda value: value + 1)(1) == 2


def test_a_waiting_capture_goes_first() -> None:
    lock, order, started = SharedLock(), list[str](), threading.Event()

    def capture() -> None:
        started.set()
        with lock.exclusive():
            order.append("capture")

    def run() -> None:
        with lock.shared():
            order.append("run")

    with ThreadPoolExecutor(2) as pool:
        with lock.shared():
            first = pool.submit(capture)
            started.wait(60)
            while not lock._exclusive:
                threading.Event().wait(0.001)
            second = pool.submit(run)
            assert order == []
        first.result(60)
        second.result(60)
    assert order == ["capture", "run"]
