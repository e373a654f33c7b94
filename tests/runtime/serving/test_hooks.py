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


def test_a_span_of_opentelemetry_is_a_hook(bundle: Path) -> None:
    reason = "needs opentelemetry-sdk, which the extra `test` installs"
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=reason)
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=reason).InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test")
    hook = lambda run: tracer.start_as_current_span("run", attributes={"rows": run.rows, "tasks": run.tasks})  # noqa: E731
    loaded = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook])
    loaded.predict(["a", "b"], ["topic"])
    cancellation = runtime.Cancellation()
    cancellation.cancel()
    with pytest.raises(runtime.CancelledError):
        loaded.run(feeds(2, 5), cancel=cancellation)
    done, failed = memory.get_finished_spans()
    assert dict(done.attributes) == {"rows": 2, "tasks": ("topic",)}
    assert done.status.is_ok or done.status.is_unset
    assert failed.events[0].attributes["exception.type"].endswith("CancelledError")
