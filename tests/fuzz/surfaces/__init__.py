"""The surfaces: each makes random cases and runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.surfaces import adapters, arguments, config, feeds, manifest, texts, tokenizer
from tests.fuzz.surfaces.printed import Printed, WrongOutputError

__all__ = ["SURFACES", "Printed", "Surface", "WrongOutputError"]


@dataclass(frozen=True)
class Surface:
    """A part of the programs to attack.

    Attributes:
        generate: makes a case from randomness and the folder of the seeds.
        run: runs a case in its box and returns a word for the result; errors pass. The function that it gets returns what the
            case has printed so far.
        weight: its share of the cases.
        copies: whether its cases get a copy of their seed in the box.
        outputs: returns the starts of paths that the case itself names as outputs, in addition to that of the box: there, new
            files are right.
    """

    generate: Callable[[Random, Path], Case]
    run: Callable[[Case, Box, Callable[[], Printed]], str]
    weight: int = 1
    copies: bool = True
    outputs: Callable[[Case, Box], tuple[str, ...]] = lambda _case, _box: ()


SURFACES: Mapping[str, Surface] = {
    "manifest": Surface(manifest.generate, manifest.run, 3),
    "tokenizer": Surface(tokenizer.generate, tokenizer.run, 3),
    "config": Surface(config.generate, config.run, 2),
    "adapters": Surface(adapters.generate, adapters.run, 2),
    "feeds": Surface(feeds.generate, feeds.run, 4, copies=False),
    "texts": Surface(texts.generate, texts.run, 4, copies=False),
    "arguments": Surface(arguments.generate, arguments.run, 2, outputs=arguments.outputs),
}
