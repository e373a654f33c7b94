"""Texts, and the other arguments of predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.seeds import TOKENIZERS
from tests.fuzz.surfaces.feeds import predictor
from tests.fuzz.surfaces.printed import Printed
from tests.fuzz.values import build, some_text, some_value

_SEEDS = (*TOKENIZERS, "heads", "decoder")


def generate(random: Random, seeds: Path) -> Case:
    """Call predict with strange texts."""
    seed = random.choice(_SEEDS)
    texts: Any = [_text(random) for _ in range(random.choice([1, 1, 2, 3, 8, 70]))]
    if random.random() < 0.03:
        texts = random.choice([some_value(random), {"$tuple": texts}, [], some_text(random)])
    call: dict[str, Any] = {"texts": texts, "truncate": random.random() < 0.8}
    if seed in ("heads", "decoder") and random.random() < 0.8:
        call["tasks"] = random.choice([["topic"], ["reader"], ["chooser"], ["filler"]]) if seed == "heads" else ["topic"]
    if random.random() < 0.1:
        call["tasks"] = random.choice([["topic"], [some_value(random)], some_value(random), ["names", "flags", "names"]])
    if random.random() < 0.1:
        call["batch_size"] = random.choice([1, 3, some_value(random)])
    if random.random() < 0.05:
        call["drop"] = some_value(random)
    if random.random() < 0.02:
        call["truncate"] = some_value(random)
    _add_options(random, call)
    return Case("texts", seed, (), call)


def _add_options(random: Random, call: dict[str, Any]) -> None:
    """Add options that mean something for some of the seeds, or nothing."""
    if random.random() < 0.3:
        call["aggregate"] = random.choice(["simple", "first", "max", "average", "none", some_value(random)])
        if random.random() < 0.4:
            call |= {"stride": random.choice([0, 1, 5, 13, some_value(random)]), "truncate": False, "tasks": ["names"]}
    if random.random() < 0.15:
        call["threshold"] = random.choice([0, 0.3, 1, some_value(random)])
    if random.random() < 0.15:
        call["top_k"] = random.choice([1, 2, 99, some_value(random)])
    if random.random() < 0.15:
        call["is_split_into_words"] = random.choice([True, True, False, some_value(random)])
        if isinstance(call["texts"], list) and random.random() < 0.8:
            call["texts"] = [[some_text(random) for _ in range(random.choice([0, 1, 2, 9]))] for _ in call["texts"]]
    if "stride" in call:
        call["texts"] = _shorter(call["texts"])  # 70,000 tokens are up to 70,000 windows, which take seconds


def _shorter(spec: Any) -> Any:
    """Return texts with at most 1,000 repetitions of a part."""
    if isinstance(spec, list):
        return [_shorter(each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: [value[0], min(value[1], 1000)] if key == "$repeat" else _shorter(value) for key, value in spec.items()}


def _text(random: Random) -> Any:
    chosen = random.random()
    if chosen < 0.75:
        return some_text(random)
    if chosen < 0.95:
        return [some_text(random), some_text(random)]
    return random.choice([some_value(random), [some_value(random)] * 2, [some_text(random)] * 3, {"$tuple": ["a", "b"]}])


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Predict, and convert the predictions to JSON types."""
    found = predictor(box.seed(case.seed)).predict(**{key: build(value) for key, value in case.call.items()})
    for rows in found.values():
        for row in rows:
            row.to_dict()
    return "predicted"
