"""How each candidate computes one task per row. Each is created in its own process, and only its libraries are imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

import runtime
from benchmarks.serving.candidates import Candidate
from runtime.bundle import TaskEntry, read_manifest, slots_file
from runtime.checks.requests import select_tasks
from runtime.serving.request import Served
from runtime.slots.layout import own_task_file
from runtime.text.encode import TextEncoder, batch_limits
from runtime.text.predict import predict_routed, tokenize
from runtime.text.predict_options import PredictOptions

Array = npt.NDArray[Any]
# Inputs, task and input row of each result row -> logits of each result row
Rows = Callable[[Mapping[str, Array], Sequence[str], Sequence[int]], list[Array]]
CACHE_BYTES = 2**29


class Alternative:
    """Another library in place of a predictor: the same tokenizer, batches and predictions around its logits."""

    def __init__(self, bundle: Path, names: Sequence[str], rows: Rows, provider: str) -> None:
        """Read the tokenizer and the tasks of a bundle, and nothing else; further tasks have the labels of these in turn."""
        manifest = read_manifest(bundle)
        own = manifest.tasks
        tasks = [replace(own[number % len(own)], name=name, outputs=(name,)) for number, name in enumerate(names)]
        self.manifest = replace(manifest, tasks=tuple(tasks))
        self.drops = self.manifest.drops
        self._encoder = TextEncoder.load(bundle, self.manifest)
        self._rows = rows
        self.provider = provider

    def entries(self, tasks: Sequence[str | TaskEntry] | None = None) -> tuple[TaskEntry, ...]:
        """Return the entries of tasks."""
        return select_tasks(self.manifest, tasks)

    def routes(self, tasks: Sequence[str | TaskEntry]) -> bool:
        """Return True: all candidates get the rows of a batch together."""
        return bool(tasks)

    def predict(self, texts: Sequence[Any], tasks: Sequence[str], drop: int | None = None, **_: Any) -> Any:
        """Predict the same tasks for all texts."""
        found = self.predict_routed(texts, [tasks] * len(texts), drop)
        return {task: [row[task] for row in found] for task in tasks}

    def predict_routed(self, texts: Sequence[Any], tasks: Sequence[Sequence[str]], drop: int | None = None, **_: Any) -> Any:
        """Predict other tasks for each text."""
        options = PredictOptions(truncate=True)
        by_name = {entry.name: entry for entry in self.manifest.tasks}
        wanted = [[by_name[name] for name in own] for own in tasks]
        windows = tokenize(self._encoder, texts, [each for own in wanted for each in own], options)
        batches = self._encoder.batches([window.tokens for window in windows], batch_limits(self.provider), None, ())

        def run(feeds: Mapping[str, Array], chosen: list[TaskEntry], rows: list[int]) -> tuple[list[Array], int]:
            logits = self._rows(feeds, [entry.name for entry in chosen], rows)
            return [row[: entry.columns] for row, entry in zip(logits, chosen, strict=True)], drop or 0

        return predict_routed(windows, batches, run, wanted, self._encoder, options, "the alternative")


def create(
    candidate: Candidate, folder: Path, tasks: int, threads: int, objective: float, device: str
) -> tuple[Served, tuple[str, ...], dict[str, Any]]:
    """Load a candidate.

    Args:
        candidate: the candidate.
        folder: folder that `prepare` filled.
        tasks: number of tasks.
        threads: threads within one operator.
        objective: latency in seconds.
        device: "cpu" or "cuda".

    Returns:
        The candidate, the names of its tasks, and what else belongs into the results.
    """
    bundle = folder / candidate.bundle
    if not candidate.ours:
        library = importlib.import_module("benchmarks.serving.alternatives")
        names = tuple(f"task{number}" for number in range(tasks))
        rows, more = library.create(candidate.key, folder, names, threads, device)
        return Alternative(folder / "fp32", names, rows, device), names, more
    drops = read_manifest(bundle).drops
    predictor = runtime.load(
        bundle,
        provider=device,
        drop={"highest": max(drops), "lowest": min(drops), "all": None}[candidate.drop],
        threads=threads,
        verify=False,
        policy=runtime.LatencyTarget(objective / 2) if candidate.drop == "all" else None,
        state_cache=CACHE_BYTES if candidate.key.endswith("cache") else None,
    )
    names = predictor.tasks[:tasks]
    if candidate.adds:
        own = predictor.manifest.tasks
        graph = slots_file(predictor.manifest.variant(max(drops)).model)
        for number in range(tasks):
            predictor.add_task(f"added {number}", bundle / own_task_file(graph, number % len(own)))
        names = predictor.tasks[len(own) :]
    return predictor, names, {}
