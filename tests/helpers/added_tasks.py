"""Tasks of two structures, of which a bundle with slots has some and a running predictor gets the others."""

from __future__ import annotations

from typing import Any

from adapters import LoRAConfig

from tests.helpers.tiny_models import tiny_model

TASKS = {
    "topic": ("seq_bn", "4"),
    "mood": (LoRAConfig(r=2), "3"),
    "spam": ("seq_bn", "2"),
    "news": ("seq_bn", "4"),
    "stars": ("seq_bn", "reg"),
    "tone": (LoRAConfig(r=2), "2"),
}
OWN = ("topic", "mood")
NEW = ("spam", "news", "stars", "tone")


def only(*names: str, config: Any = None, **others: Any) -> Any:
    """The model with some of the tasks, and others, on the same base model."""
    model = tiny_model({**TASKS, **others}, config)
    for name in set(TASKS) - set(names):
        model.delete_adapter(name)
        model.delete_head(name)
    return model
