"""The comparison of `python -m training.quality` on a tiny MPNet: its task, and the command that trains all methods."""

from __future__ import annotations

from pathlib import Path

from training.quality import __main__ as command

TASK = "news_topic"


def train_all(out: Path, *more: str) -> int:
    return command.main(["--out", str(out), "--cache", str(out.parent), "--tasks", TASK, "--seeds", "1", *more])
