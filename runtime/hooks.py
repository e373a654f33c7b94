"""Hooks that wrap every run of a graph, for metrics and traces."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Run:
    """Description of one run of a graph.

    Attributes:
        provider: name of the execution provider, such as "cpu".
        drop: drop of the variant that runs.
        tasks: names of the requested tasks.
        rows: first dimension of the first input.
        length: second dimension of the first input; 1 if the input is not a matrix.
        tokens: number of tokens without padding; equal to `rows` if the graph has no attention mask.
        cached: rows whose trunk states came from the cache, see `load`.
    """

    provider: str
    drop: int
    tasks: tuple[str, ...]
    rows: int
    length: int
    tokens: int
    cached: int = 0


Hook: TypeAlias = Callable[[Run], AbstractContextManager[Any]]
"""A function that returns a context manager, which is entered before a run and left after it.

It is left with the exception of a failed run. A tracer of OpenTelemetry fits:
`lambda run: tracer.start_as_current_span("run", attributes={"drop": run.drop})`.
"""
