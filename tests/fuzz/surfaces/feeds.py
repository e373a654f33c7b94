"""Arrays and other arguments of run, run_routed and predict."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import runtime
from runtime.bundle.interface import INPUTS
from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.seeds import BUNDLES
from tests.fuzz.surfaces.printed import Printed
from tests.fuzz.values import build, some_array, some_text, some_value

_INPUTS = {
    **dict.fromkeys(("text", "routed"), ("input_ids", "attention_mask", "token_type_ids")),
    "heads": ("input_ids", "attention_mask"),
    "decoder": ("input_ids", "decoder_input_ids", "decoder_attention_mask", "word_starts"),
    "vision": ("pixel_values",),
}
_TASKS = {"text": "topic", "routed": "topic", "heads": "reader", "decoder": "parse", "vision": "animal"}


def generate(random: Random, seeds: Path) -> Case:
    """Call a method of a predictor with arrays that are mostly right."""
    seed = random.choice([*BUNDLES, "text", "routed"])
    feeds: list[Any] = []
    likely = (2, 3, 4, 4) if seed == "vision" else random.choice([(2, 5), (2, 5), (1, 1), (3, 16)])
    for name in _INPUTS[seed]:
        array: Any = some_array(random, likely)
        if random.random() < 0.6:
            dtype = "float32" if seed == "vision" else "int64"
            array = {"$array": {"dtype": dtype, "shape": list(likely), "fill": "small", "form": "plain"}}
        if random.random() < 0.04:
            array = some_value(random)
        if random.random() < 0.97:
            feeds.append([name, array])
    if random.random() < 0.08:
        feeds.append(
            [random.choice([*INPUTS, some_text(random), random.choice([0, None, {"$tuple": []}])]), some_array(random)]
        )
    call: dict[str, Any] = {"feeds": {"$pairs": feeds} if random.random() < 0.97 else some_value(random)}
    if random.random() < 0.3:
        call["tasks"] = random.choice(
            [[_TASKS[seed]], [_TASKS[seed]] * 2, some_value(random), [some_value(random)], some_text(random)]
        )
    if random.random() < 0.15:
        call["drop"] = random.choice([5, some_value(random)])
    if seed == "routed" and random.random() < 0.6:
        call["tasks"] = random.choice(
            [["topic", "flags"], ["topic"] * 3, ["stars", "topic"], [some_value(random)] * 2, some_value(random)]
        )
        call["rows"] = random.choice(
            [None, [0, 1], [1, 1, 0], [0, -1], [0, 10**30], [some_value(random)] * 2, some_value(random)]
        )
        call["method"] = "run_routed"
    elif random.random() < 0.05:
        call["method"] = "run_on_device"
    return Case("feeds", seed, (), call)


@cache
def predictor(folder: Path) -> runtime.Predictor:
    """Return the predictor of a seed, loaded once per process."""
    return runtime.load(folder, provider="cpu", threads=1)


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Call the method."""
    arguments = {key: build(value) for key, value in case.call.items() if key != "method"}
    getattr(predictor(box.seed(case.seed)), str(case.call.get("method", "run")))(**arguments)
    return "ran"
