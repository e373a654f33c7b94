"""Hooks around every run of a graph, for metrics and traces."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Run:
    """One run of a graph: `rows` x `length` are the shape of its first input, `tokens` those that are no padding (rows where
    there is no mask)."""

    provider: str
    drop: int
    tasks: tuple[str, ...]
    rows: int
    length: int
    tokens: int


# Entered before a run and left after it, with its exception where it failed. An OpenTelemetry tracer fits:
# lambda run: tracer.start_as_current_span("run", attributes={"drop": run.drop})
Hook: TypeAlias = Callable[[Run], AbstractContextManager[Any]]
