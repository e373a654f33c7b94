"""Exports that stop where the trace would begin; a few run to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

import runtime
from tests.fuzz.box import Box


class ReachedError(Exception):
    """A plan has been made: what follows takes seconds."""


@contextmanager
def stopped() -> Iterator[None]:
    """Stop every export in the block with ReachedError before it traces or compiles."""
    with (
        mock.patch("exporter.variant.trace_group", side_effect=ReachedError),
        mock.patch("exporter.add_tasks.compile_plan", side_effect=ReachedError),
    ):
        yield


def export_as_far(call: Callable[[], object], box: Box, complete: bool) -> str:
    """Run an export, and a complete one's result.

    Args:
        call: exports into the box's output.
        box: the box of the case.
        complete: trace, compile and verify too.
    """
    if complete:
        call()
        return f"exported, {run_some(runtime.load(box.output, provider='cpu', threads=1))}"
    try:
        with stopped():
            call()
    except ReachedError:
        return "planned"
    return "exported"


def run_some(predictor: runtime.Predictor) -> str:
    """Run a loaded bundle on small inputs that fit its manifest."""
    manifest = predictor.manifest
    lengths = {"batch": 2, **{axis: min(3, length) for axis, length in manifest.max_lengths.items()}}
    feeds = {}
    for entry in manifest.inputs:
        shape = [int(axis) if axis.isdecimal() else lengths.get(axis, 3) for axis in entry.shape]
        if np.prod([float(size) for size in shape]) > 10**6:
            return "loaded"
        feeds[entry.name] = np.full(shape, 1 if entry.limit > 1 else 0, entry.dtype)
    for drop in predictor.drops:
        predictor.run(feeds, drop=drop)
    if predictor.manifest.tokenizer:
        predictor.predict(["the film", ""], truncate=True)
    return "ran"
