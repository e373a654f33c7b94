"""Hooks around each run, the Prometheus metrics made with them, and cancelled calls."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import runtime
from tests.helpers.runtime_bundles import feeds


def test_hooks_see_every_run_and_its_failure(bundle: Path) -> None:
    seen: list[Any] = []

    @contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        seen.append(run)
        try:
            yield
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    loaded = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook])
    loaded.run(feeds(2, 5), tasks=["topic"])
    assert seen == [runtime.Run("cpu", 5, ("topic",), 2, 5, 9)]
    cancellation = runtime.Cancellation()
    cancellation.cancel()
    with pytest.raises(runtime.CancelledError, match="before it ran"):
        loaded.predict(["a"], cancel=cancellation)
    assert seen[-1] == "CancelledError"


def test_metrics_count_rows_tokens_padding_and_failures(bundle: Path) -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="needs prometheus-client, which the extra `test` installs")
    from runtime.serving.metrics import Metrics

    registry = prometheus.CollectorRegistry()
    loaded = runtime.load(bundle, provider="cpu", threads=1, hooks=[Metrics(registry)])
    for _ in range(2):
        loaded.run(feeds(2, 5))
    cancellation = runtime.Cancellation()
    cancellation.cancel()
    with pytest.raises(runtime.CancelledError, match="before it ran"):
        loaded.run(feeds(), cancel=cancellation)
    labels = {"provider": "cpu", "drop": "5"}
    names = ("rows_total", "tokens_total", "padding_total", "failures_total", "run_seconds_count")
    assert [registry.get_sample_value(f"adapterdrop_{name}", labels) for name in names] == [4, 18, 2, 1, 2]
    assert registry.get_sample_value("adapterdrop_running") == 0


def test_a_cancellation_ends_many_calls_and_leaves_others_alone(predictor: runtime.Predictor) -> None:
    cancellation, started = runtime.Cancellation(), threading.Barrier(5)

    def call(index: int) -> str:
        started.wait()
        try:
            while True:
                predictor.run(feeds(8, 16), cancel=cancellation if index else None)
                if not index and cancellation.cancelled:
                    return "answered"
        except runtime.CancelledError:
            return "cancelled"

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, index) for index in range(4)]
        started.wait()
        cancellation.cancel()
        assert [future.result(timeout=20) for future in calls] == ["answered", *["cancelled"] * 3]
    assert not cancellation._runs
