"""The ways to train an adapter that the AdapterDrop paper compares, and the tasks of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.fit import robust_drop
from training.tasks import TASKS, TaskSpec

# Specialised adapters have none in the layers 0 to 4; section 3.1 of the paper compares at this number.
SPECIALISED = 5
STEPS, BATCH_SIZE, MAX_LENGTH = 120, 16, 32
TRAIN_LIMIT, TEST_LIMIT = 2000, 500
_TASKS = ("news_topic", "reuters_topic", "movie_sentiment")

# Small and short on purpose, for CPUs.
QUALITY_TASKS: dict[str, TaskSpec] = {
    task.name: replace(task, steps=STEPS, batch_size=BATCH_SIZE, max_length=MAX_LENGTH, test_limit=TEST_LIMIT)
    for name in _TASKS
    for task in TASKS
    if task.name == name
}


def _never(seed: int, step: int, layers: int) -> int:  # noqa: ARG001  # the signature of a drop
    return 0


def _always(seed: int, step: int, layers: int) -> int:  # noqa: ARG001  # the same
    return SPECIALISED


# Method -> the number of dropped layers of a step. "shared" is the standard training of one adapter for all layers.
METHODS: dict[str, Callable[[int, int, int], int]] = {
    "standard": _never,
    "specialised": _always,
    "robust": robust_drop,
    "shared": _never,
}
