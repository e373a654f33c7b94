"""The test sets of the comparison, as files for `python -m exporter --evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from training.quality.methods import QUALITY_TASKS
from training.texts import write_task


def write_test_sets(folder: Path, tasks: Sequence[str], base_model: Path, corpus: Path) -> None:
    """Write TASK.jsonl with the test texts of each task, truncated as in training, and their labels.

    Args:
        folder: folder of the files; created if necessary.
        tasks: names of tasks.
        base_model: folder of the base model's tokenizer.
        corpus: folder of the corpora.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    for name in tasks:
        task = QUALITY_TASKS[name]
        write_task(folder, task, corpus, tokenizer, task.test_limit)
