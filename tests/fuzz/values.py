"""Extreme values: raw texts for places in JSON files, and specifications of Python values.

A specification is JSON. Plain types stand for themselves; an object with one key that starts with "$" stands for what JSON does
not have: {"$repeat": ["ab", 3]} is "ababab". Long values stay short in the corpus.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

_DEPTH = 100_000  # of nested JSON
TEXTS: tuple[Any, ...] = (
    *("", " ", "a", "A word, 2 words.", "\0", "a\0b", "\n", "\r\n", "\t", "\x1b[31m", "\x7f", "\ufeff", "\ufffe", "\U0010ffff"),
    *(
        "\ud800",
        "\udfff\ud800",
        "e\u0301",
        "한\u1100\u1161\u11a8",
        "\u202eabc",
        "\u200d\u200b",
        "👩‍👩‍👧‍👦",
        "日本語",
        "ﷺ",
        "İı",
        "ß",
    ),
    *(
        "[/x]",
        "[red]",
        "<b>",
        "&amp;",
        "{0}",
        "{x!r}",
        "%s%n",
        "$HOME",
        "`id`",
        "'",
        '"',
        "\\",
        "a,b",
        "a=b",
        "=",
        ",",
        "-",
        "--",
    ),
    *(
        "..",
        ".",
        "/",
        "../../outside/new",
        "/proc/self/mem",
        "/dev/zero",
        "~",
        "~root",
        "con",
        "a/b",
        "a\\b",
        "a.b",
        "file:///x",
    ),
    *("true", "null", "NaN", "inf", "-1", "1e400", "0x10", "٣", "1_0", " 1 ", "[MASK]", "[CLS] [SEP]", "[UNK]", "<s></s>"),
    *("default", "self", "__class__", "forward", "weight", "config", "logits", "input_ids", "a", "b", "model.onnx"),
    *(
        {"$repeat": [text, count]}
        for text in ("a", "a ", "\u0301", "é", "😀", "[", "../", "\0", "٣")
        for count in (300, 70_000)
    ),
)
NUMBERS: tuple[Any, ...] = (
    *(
        0,
        1,
        -1,
        2,
        3,
        7,
        127,
        128,
        255,
        256,
        32767,
        65536,
        10**6,
        10**9,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**63 - 1,
        2**63,
        2**64,
    ),
    *(-(2**31), -(2**63), 10**30, 0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320, 1e308, 3.4e39),
    *({"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}, {"$power": [10, 400]}),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, [], {}, [None], [[]], {"a": 1}, [1, 2, 3], {"$tuple": []}, {"$bytes": "00ff"}, {"$set": [1]}),
    *({"$object": 0}, {"$nested": 50}, {"$numpy": ["int64", 1]}, {"$numpy": ["float64", 0.5]}, {"$complex": [1, 2]}),
)
_FILLS = ("zeros", "ones", "small", "ids", "negative", "lowest", "highest", "nan", "inf", "random")


def build(spec: Any) -> Any:
    """Return the value of a specification."""
    if isinstance(spec, list):
        return [build(each) for each in spec]
    if not isinstance(spec, Mapping):
        return spec
    if len(spec) == 1 and (name := next(iter(spec))).startswith("$"):
        return _BUILDERS[name](spec[name])
    return {key: build(value) for key, value in spec.items()}


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


_BUILDERS: Mapping[str, Callable[[Any], Any]] = {
    "$repeat": lambda parts: parts[0] * parts[1],
    "$join": lambda parts: "".join(build(part) for part in parts),
    "$float": float,
    "$power": lambda parts: parts[0] ** parts[1],
    "$tuple": lambda parts: tuple(build(part) for part in parts),
    "$set": set,
    "$bytes": bytes.fromhex,
    "$object": lambda _: object(),
    "$nested": _nested,
    "$numpy": lambda parts: np.dtype(parts[0]).type(parts[1]),
    "$complex": lambda parts: complex(*parts),
    "$pairs": lambda pairs: {build(key): build(value) for key, value in pairs},
    "$array": lambda options: array(**options),
}


def array(dtype: str, shape: Sequence[int], fill: str = "zeros", form: str = "plain") -> Any:
    """Return an array.

    Args:
        dtype: its type, in numpy's names.
        shape: its shape; more than a million elements become one element that is broadcast.
        fill: the elements, one of those in this file.
        form: the memory layout or class.
    """
    if np.prod([float(size or 1) for size in shape]) > 2**58:  # numpy refuses it, even without elements
        shape = shape[:1]
    # numpy also walks through the rows of an array without elements.
    wide = np.prod([float(size or 1) for size in shape]) > 10**6
    found = _filled(np.dtype(dtype), (1,) * len(shape) if wide else tuple(shape), fill)
    if form == "masked":
        found = np.ma.masked_array(found, mask=np.ones(found.shape, bool))
    elif form == "fortran":
        found = np.asfortranarray(found)
    elif form == "strided" and found.ndim:
        found = np.repeat(found, 2, axis=0)[::2]
    elif form == "reversed" and found.ndim:
        found = found[::-1]
    elif form == "readonly":
        found.flags.writeable = False
    elif form == "subclass":
        found = found.view(type("Sub", (np.ndarray,), {}))
    elif form == "list":
        return found.tolist()
    return np.broadcast_to(found, tuple(shape)) if wide else found


def _filled(dtype: np.dtype[Any], shape: tuple[int, ...], fill: str) -> Any:
    random = np.random.default_rng(sum(shape) + len(fill))
    if dtype.kind in "OSUVMm" or dtype.names:
        values: Any = datetime.timedelta(1) if dtype.kind in "Mm" else "x" if dtype.kind in "SU" else None
        return np.zeros(shape, dtype) if values is None or dtype.kind in "Mm" else np.full(shape, values).astype(dtype)
    if fill == "random":
        return np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
    if fill in ("lowest", "highest") and dtype.kind in "iu":
        return np.full(shape, getattr(np.iinfo(dtype), {"lowest": "min", "highest": "max"}[fill]), dtype)
    if fill in ("nan", "inf", "lowest", "highest") and dtype.kind in "fc":
        return np.full(shape, {"nan": np.nan, "inf": np.inf, "lowest": -3e4, "highest": 3e4}[fill], dtype)
    if fill in ("ids", "small"):
        return random.integers(0, 30 if fill == "ids" else 2, shape).astype(dtype)
    number = {"ones": 1, "negative": -1}.get(fill, 0)
    return np.full(shape, number).astype(dtype)


def some_array(random: Random, likely: Sequence[int] = (2, 5)) -> dict[str, Any]:
    """Return the specification of an array; its shape and type are often those that are right."""
    dtypes = ["int8", "uint8", "int32", "uint64", "float16", "float32", "float64", "complex64", "bool", "object", "U3", "S2"]
    dtypes += ["datetime64[s]", "timedelta64[s]", ">i8", ">f4", "V4", "i4,f4", "longdouble"]
    sizes = [0, 1, 2, 3, 5, 16, 17, 64, 10**5, 10**9]
    shape = list(likely) if random.random() < 0.7 else [random.choice(sizes) for _ in range(random.choice([0, 1, 2, 2, 3, 4]))]
    dtype = "int64" if random.random() < 0.6 else random.choice(dtypes)
    form = (
        "plain"
        if random.random() < 0.7
        else random.choice(["masked", "fortran", "strided", "reversed", "readonly", "subclass"])
    )
    return {"$array": {"dtype": dtype, "shape": shape, "fill": random.choice([*_FILLS, "ids", "small"]), "form": form}}


def some_text(random: Random) -> Any:
    """Return the specification of a string."""
    if random.random() < 0.6:
        return random.choice(TEXTS)
    parts = [random.choice(TEXTS) for _ in range(random.randint(2, 6))]
    return {"$join": parts}


def some_value(random: Random) -> Any:
    """Return the specification of any Python value."""
    chosen = random.random()
    if chosen < 0.35:
        return random.choice(NUMBERS)
    return some_text(random) if chosen < 0.7 else random.choice(ODD)


def raw_json(random: Random, known: Sequence[Any] = ()) -> list[Any]:
    """Return a value as raw text for a JSON file: a list of strings, and of pairs (string, count) that are repeated.

    Args:
        random: the source of randomness.
        known: values that mean something in this place, of which one is often taken.
    """
    chosen = random.random()
    if known and chosen < 0.4:
        return [json.dumps(random.choice(known))]
    if chosen < 0.6:
        texts = [
            "1e400",
            "-1e400",
            "NaN",
            "Infinity",
            "-0",
            "1E-400",
            "9" * 40,
            "0.1e1",
            "1.0",
            "01",
            "",
            "tru",
            "\\",
            "//",
            "'a'",
        ]
        return random.choice(
            [[text] for text in texts]
            + [[["9", 5000]], [["[", _DEPTH], ["]", _DEPTH]], [['{"a":', _DEPTH], "1", ["}", _DEPTH]]]
        )
    if chosen < 0.8:
        return _text_of(random.choice(TEXTS))
    plain = [each for each in (*NUMBERS, *ODD) if not isinstance(each, dict) or not any(key.startswith("$") for key in each)]
    return [json.dumps(random.choice(plain))]


def _text_of(spec: Any) -> list[Any]:
    if isinstance(spec, str):
        return [json.dumps(spec)]
    text, count = spec["$repeat"]
    return ['"', [json.dumps(text)[1:-1], count], '"']


def expand(parts: Sequence[Any]) -> str:
    """Return the text of `raw_json`."""
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)
