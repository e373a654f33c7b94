"""Prometheus metrics as a hook: `runtime.load(folder, hooks=[Metrics()])`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from runtime.hooks import Run

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Hook that records every run.

    The metrics are adapterdrop_run_seconds (histogram), adapterdrop_rows_total, adapterdrop_cached_rows_total,
    adapterdrop_tokens_total, adapterdrop_padding_total and adapterdrop_failures_total, each by provider and drop, and
    adapterdrop_running (gauge).
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the metrics.

        Args:
            registry: registry for the metrics. Create one Metrics per registry; any number of predictors may share it.
        """
        labels = ("provider", "drop")
        self._seconds = Histogram(
            "adapterdrop_run_seconds", "Seconds of one run of a graph", labels, buckets=_SECONDS, registry=registry
        )
        self._rows = Counter("adapterdrop_rows", "Rows that were run", labels, registry=registry)
        self._cached = Counter(
            "adapterdrop_cached_rows", "Rows whose trunk states came from the cache", labels, registry=registry
        )
        self._tokens = Counter("adapterdrop_tokens", "Tokens that were run, without padding", labels, registry=registry)
        self._padding = Counter("adapterdrop_padding", "Padding tokens that were run", labels, registry=registry)
        self._failures = Counter(
            "adapterdrop_failures", "Runs that raised an exception, including cancelled runs", labels, registry=registry
        )
        self._running = Gauge("adapterdrop_running", "Runs at this moment", registry=registry)

    @contextmanager
    def __call__(self, run: Run) -> Iterator[None]:
        """Measure the run inside the context."""
        labels = (run.provider, str(run.drop))
        started = time.perf_counter()
        with self._running.track_inprogress():
            try:
                yield
            except BaseException:
                self._failures.labels(*labels).inc()
                raise
        self._seconds.labels(*labels).observe(time.perf_counter() - started)
        self._rows.labels(*labels).inc(run.rows)
        self._cached.labels(*labels).inc(run.cached)
        self._tokens.labels(*labels).inc(run.tokens)
        self._padding.labels(*labels).inc(run.rows * run.length - run.tokens)
