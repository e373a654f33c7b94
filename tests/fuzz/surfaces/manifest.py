"""Bundles with changed manifests and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import runtime
from exporter.inspect.read import inspect_bundle
from runtime.bundle import HEADS
from runtime.bundle.interface import INPUTS
from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.mutate import Known, random_edits
from tests.fuzz.seeds import BUNDLES
from tests.fuzz.surfaces.exporting import run_some
from tests.fuzz.surfaces.printed import Printed
from tests.fuzz.values import build, some_value

_NAMES = ["../outside/secret.txt", "/dev/zero", "model.onnx", "adapterdrop.json", "..", "a/b", "model.onnx.data", ""]
_KNOWN = Known(
    files={"adapterdrop.json": 30, "model.onnx": 1, "model.onnx.data": 1},
    keys={
        "head": HEADS,
        "name": [*INPUTS, "topic", "x", "[/x]"],
        "shape": [["batch"], ["batch", "sequence"], ["batch", "3", "4", "4"], ["batch", "999999999"], ["batch", "words"]],
        "files": [{}, {"model.onnx": "0" * 64}, *({name: "0" * 64} for name in _NAMES)],
        "model": _NAMES,
        "routed": _NAMES,
        "max_lengths": [{}, {"sequence": 1}, {"sequence": 2**31 - 1}, {"batch": 3}],
        "layers": [1, 6, 10_000, 10**6, 3 * 10**8],
        "limit": [0, 1, 2, 2**31 - 1],
        "labels": [[], ["x"], ["a", "b", "c"], ["a"] * 3],
        "outputs": [[], ["topic"], ["topic", "stars"], ["names"]],
        "precision": ["fp32", "int8", "bf16", "fp64"],
        "target": ["cpu", "cuda", "openvino", "tensorrt", "portable"],
        "format_version": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        "tokenizer": [True, False],
        "drop": [0, 1, 5, 6, 7],
        "dropped": [[], [0], [0, 1, 2, 3, 4], [5, 4]],
        "members": [[], [["a"]] * 6],
    },
)


def generate(random: Random, seeds: Path) -> Case:
    """Change a bundle, and load it with options that are mostly the usual ones."""
    seed = random.choice(BUNDLES)
    edits = random_edits(random, seeds / seed, _KNOWN)
    call: dict[str, object] = {"inspect": True} if random.random() < 0.15 else {}
    if random.random() < 0.3:
        edits = (*edits, {"op": "hash", "file": "adapterdrop.json"})
    for name in ("provider", "drop", "threads", "verify"):
        if random.random() < 0.03:
            call[name] = some_value(random)
    return Case("manifest", seed, edits, call)


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Load the bundle and run it, or inspect it."""
    if case.call.get("inspect"):
        inspect_bundle(box.given).to_dict()
        return "inspected"
    options = {"provider": "cpu", "threads": 1, **{key: build(value) for key, value in case.call.items()}}
    return run_some(runtime.load(box.given, **options))
