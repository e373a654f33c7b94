"""Arguments of the command lines."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.mutate import Known, random_edits
from tests.fuzz.surfaces.exporting import ReachedError, stopped
from tests.fuzz.surfaces.printed import Printed, WrongOutputError
from tests.fuzz.values import NUMBERS, TEXTS, build

_GIVEN, _OUTPUT = "../given", "../results/output"
_MODELS = (f"{_GIVEN}/model", f"{_GIVEN}/adapterhub/model", f"{_GIVEN}/peft/model", f"{_GIVEN}/onnx", _GIVEN)
_ADAPTERS = (
    *(
        f"{name}{_GIVEN}/adapterhub/adapters/{kind}"
        for name in ("", "x=", "a=", "=", "x.y=")
        for kind in ("seq_bn", "lora", "missing")
    ),
    *(f"{_GIVEN}/peft/adapters/lora", f"x={_GIVEN}/peft/adapters/ia3", f"{_GIVEN}/adapterhub/adapters", f"{_GIVEN}/model"),
)
_FILES = tuple(
    f"{_GIVEN}/{name}" for name in ("texts.txt", "texts.jsonl", "texts.csv", "texts.tsv", "scores.json", "missing.txt", "model")
)
_BUNDLES = (f"{_GIVEN}/onnx", f"{_GIVEN}/model", "missing", _OUTPUT)
_DROPS = ("0", "1", "2", "3", "-1", "0,1", "0,0", "a=1", "a=1,b=0", "a=1,a=2", "=1", "a=", ",", "0,", "a=x", "1.0")
_TASKS = ("a", "a,b", "b", "x", "", ",", "a=b", "a=", "=a", "a,a", "topic")
_SHAPES = ("1x128", "8x32", "0x0", "1", "1x1x1", "x", "1X2", "999999999x999999999", "-1x5", "1x0")
# Option -> values that mean something; () for a switch.
_EXPORT: dict[str, tuple[str, ...]] = {
    "--model": _MODELS,
    "--adapter": _ADAPTERS,
    "--fusion": (f"{_GIVEN}/adapterhub/fusion", f"{_GIVEN}/model"),
    "--tasks": _TASKS,
    "--drop": _DROPS,
    "--keep-fused": ("0", "1", "2", "9", "-1"),
    "--calibration": _FILES,
    "--output": (_OUTPUT, ".", "..", "", _GIVEN, f"{_GIVEN}/model", "~", "/", f"{_OUTPUT}/../output", "/dev/null"),
    "--precision": ("fp32", "fp16", "bf16", "int8", "fp64"),
    "--int8-ranges": ("row", "tensor", "calibrated", "x"),
    "--target": ("portable", "cpu", "cuda", "tensorrt", "openvino", "x"),
    "--evaluation": (*_FILES, *(f"a={name}" for name in _FILES), "=x", "a="),
    "--max-disagreement": ("0", "0.5", "1", "2", "nan"),
    "--opset": ("16", "17", "20", "23", "24", "25"),
    "--atol": ("0", "1e-4", "1", "-1", "nan", "inf"),
    **dict.fromkeys(
        ("--overwrite", "--no-tokenizer", "--routed", "--extendable", "--quiet", "--verbose", "--json", "--help"), ()
    ),
}
_ADD = {key: _EXPORT[key] for key in ("--model", "--adapter", "--fusion", "--atol", "--quiet", "--verbose", "--json")}
_INSPECT: dict[str, tuple[str, ...]] = {
    "--shape": _SHAPES,
    "--drop": _DROPS,
    "--picture": (f"{_OUTPUT}.svg", "x.png", "../outside/secret.txt", ".", "missing/x.svg", "/dev/full"),
    "--why": ("", "QuantizeRows", "MergeCasts", "logits", "x"),
    **dict.fromkeys(("--routed", "--json"), ()),
}
_RUN: dict[str, tuple[str, ...]] = {
    "--text": ("the film", "", "a"),
    "--file": (*_FILES, "-", "/dev/null", "."),
    "--tasks": _TASKS,
    "--provider": ("auto", "cpu", "cuda", "tensorrt", "openvino", "webgpu", "coreml", "x"),
    "--drop": _DROPS,
    "--threads": ("0", "1", "2", "-1", "100000"),
    "--cache": ("cache", ".", "/dev/null", "../given/texts.txt", "../temporary/cache"),
    "--option": (
        *(
            "threads=1",
            "spin=on",
            "memory_limit=1G",
            "share_weights=off",
            "cuda.graphs=1x8",
            "x=1",
            "threads",
            "tensorrt.best=0x0",
        ),
        *(
            "memory_limit=0",
            "threads=99999999999",
            "cuda.device=1",
            "openvino.precision=x",
            "provider_options.x=1",
            "session_config.x=1",
            "memory_limit=9G",
            "threads=٣",
        ),
    ),
    "--aggregate": ("simple", "first", "max", "average", "none"),
    "--stride": ("0", "1", "-1", "9", "x"),
    "--threshold": ("0", "0.5", "1", "2", "nan", "x"),
    "--top-k": ("1", "2", "0", "x"),
    **dict.fromkeys(("--nodes", "--truncate", "--json", "--help"), ()),
}
_TRITON: dict[str, tuple[str, ...]] = {
    "--name": ("x", "a/b", "..", ""),
    "--tokens": ("1", "x"),
    **dict.fromkeys(("--help", "--overwrite"), ()),
}


def generate(random: Random, seeds: Path) -> Case:
    """Make a command line of options that mostly mean something."""
    command, options, heads = random.choice(
        [
            ("exporter", _EXPORT, [[], ["--model", _MODELS[0], "--output", _OUTPUT]]),
            ("exporter", _EXPORT, [["--model", _MODELS[0], "--output", _OUTPUT, "--quiet"]]),
            ("exporter", _ADD, [["add", _OUTPUT], ["add", _BUNDLES[0]], ["add"], ["add", _OUTPUT, "--model", _MODELS[0]]]),
            ("exporter", _INSPECT, [["inspect", _BUNDLES[0]], ["inspect", random.choice(_BUNDLES)]]),
            ("runtime", _RUN, [[_BUNDLES[0], "--text", "the film"], [_BUNDLES[0]], [random.choice(_BUNDLES)]]),
            ("runtime", _TRITON, [["triton", _BUNDLES[0], f"{_OUTPUT}/models"], ["triton", "x", "y"]]),
        ]
    )
    arguments: list[Any] = list(random.choice(heads))
    for _ in range(random.choice([0, 1, 1, 2, 3, 5])):
        option = random.choice(list(options))
        arguments.append(option)
        if options[option]:
            arguments.append(random.choice(options[option]) if random.random() < 0.75 else _any_text(random))
    for _ in range(random.choice([0, 0, 0, 0, 1, 2])):
        arguments.insert(
            random.randint(0, len(arguments)), random.choice([_any_text(random), "--", "--x", "-h", "--json=1", "@x"])
        )
    call: dict[str, Any] = {"module": command, "arguments": arguments}
    edits: tuple[dict[str, Any], ...] = ()
    if command == "exporter" and random.random() < 0.01:
        call["complete"] = True
        arguments = [each for each in arguments if each != "--overwrite"]  # of what the box watches
        call["arguments"] = arguments
    if random.random() < 0.25:  # the files of texts, and the exported folder
        known = Known(
            {"texts.txt": 3, "texts.jsonl": 3, "texts.csv": 3, "texts.tsv": 3, "scores.json": 3, "onnx/adapterdrop.json": 2}
        )
        edits = random_edits(random, seeds / "sources", known)
    return Case("arguments", "sources", edits, call)


def _any_text(random: Random) -> Any:
    if random.random() < 0.4:
        number = random.choice(NUMBERS)
        return str(number) if not isinstance(number, dict) else {"$repeat": ["9", 5000]}
    found = random.choice(TEXTS)
    # The kernel limits an argument to 128 KiB, and its end is the first NUL.
    too_long = (
        isinstance(found, dict) and len(found["$repeat"][0].encode("utf-8", "surrogateescape")) * found["$repeat"][1] > 120_000
    )
    return "x" if too_long or "\0" in str(found) or "\\x00" in str(found) else found


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Run `python -m MODULE`, and check its exit status and messages."""
    module, arguments = str(case.call.get("module", "runtime")), [_argument(each) for each in case.call.get("arguments", ())]
    if "add" in arguments[:1]:
        shutil.copytree(box.given / "onnx", box.output)
    with mock.patch.object(sys, "argv", [module, *arguments]), nullcontext() if case.call.get("complete") else stopped():
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except ReachedError:
            return "planned"
        except SystemExit as stop:
            status = stop.code
    text = printed().error
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if status not in (None, 0, 1, 2):
        raise WrongOutputError(f"exit status {status}")
    if "Traceback" in text:
        raise WrongOutputError(f"a traceback\n{text}")
    if len(errors) != (1 if status else 0):
        raise WrongOutputError(f"{len(errors)} error messages with exit status {status}\n{text}")
    return f"exit status {status or 0}"


def outputs(case: Case, box: Box) -> tuple[str, ...]:
    """Return the paths that the command line names as outputs."""
    arguments = [_argument(each) for each in case.call.get("arguments", ())]
    options = ("--output", "--cache", "--picture")
    named = [after for option, after in pairwise(arguments) if option in options]
    named += [each.partition("=")[2] for each in arguments if each.startswith(tuple(f"{option}=" for option in options))]
    named += arguments[1:] if arguments[:1] == ["triton"] else []
    named += ["onnx"] if case.call.get("module") == "exporter" else []  # the default of --output
    return tuple(os.path.normpath(box.current / name.replace("~", str(box.root / "home"), 1)) for name in named if name)


def _argument(spec: Any) -> str:
    """Return an argument as Python receives it: bytes that are no UTF-8 are surrogates."""
    text = build(spec)
    try:
        return str(text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return "\udcff"
