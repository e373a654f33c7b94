"""The check of what is fed to a graph, so that a mistake is named before ONNX Runtime sees it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import InputEntry, Manifest
from runtime.entries import BATCH
from runtime.errors import InputError

_OPTIONAL = "token_type_ids"


def check_feeds(feeds: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """`feeds` as ONNX Runtime takes them: the inputs of the manifest, `token_type_ids` of zeros where they were left out.

    Raises:
        InputError: names every mismatch: names, types, shapes, lengths and values.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds: expected a mapping from input name to array, found {type(feeds).__name__}")
    names = [entry.name for entry in manifest.inputs]
    problems = [f"{name}: missing" for name in names if name not in feeds and name != _OPTIONAL]
    problems += [f"{name}: unknown, expected {', '.join(names)}" for name in feeds if name not in names]
    lengths: dict[str, dict[str, int]] = {}  # named axis -> input -> its length
    for entry in manifest.inputs:
        if entry.name in feeds:
            problems.extend(_array_faults(entry, array := feeds[entry.name]))
            if isinstance(array, np.ndarray) and array.ndim == len(entry.shape):
                for axis, length in zip(entry.shape, array.shape, strict=True):
                    lengths.setdefault(axis, {})[entry.name] = length
    problems.extend(_axis_faults(lengths, manifest.max_lengths))
    if problems:
        raise InputError("feeds: " + "; ".join(problems))
    checked = {name: feeds[name] for name in names if name in feeds}
    if _OPTIONAL in names:
        checked.setdefault(_OPTIONAL, np.zeros_like(checked["input_ids"]))
    return checked


def _array_faults(entry: InputEntry, array: object) -> Iterator[str]:
    name, dtype = entry.name, np.dtype(entry.dtype)
    if not isinstance(array, np.ndarray):
        found = type(array).__name__
        yield f"{name}: expected a numpy array, found {found}; use numpy.array(..., dtype=numpy.{entry.dtype})"
        return
    if array.dtype != dtype:
        yield f"{name}: expected {entry.dtype}, found {array.dtype}; cast it with .astype(numpy.{entry.dtype})"
    if array.ndim != len(entry.shape):
        yield f"{name}: expected rank {len(entry.shape)} [{', '.join(entry.shape)}], found shape {list(array.shape)}"
    elif any(axis.isdecimal() and int(axis) != size for axis, size in zip(entry.shape, array.shape, strict=True)):
        yield f"{name}: expected shape [{', '.join(entry.shape)}], found {list(array.shape)}"
    if not array.size:
        return
    if array.dtype.kind in "iu" and entry.limit and not _within(array, entry.limit):
        yield f"{name}: expected values in 0..{entry.limit - 1}, found {array.min()}..{array.max()}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"{name}: expected finite numbers, found NaN or an infinity"


def _within(array: npt.NDArray[Any], limit: int) -> bool:
    if array.dtype == np.int64 and array.dtype.isnative:
        return bool(array.view(np.uint64).max() < limit)  # negative numbers are the largest then: one pass for both bounds
    return bool(array.min() >= 0 and array.max() < limit)


def _axis_faults(lengths: Mapping[str, Mapping[str, int]], longest: Mapping[str, int]) -> Iterator[str]:
    for axis, found in lengths.items():
        if axis.isdecimal():
            continue
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{name} {length}" for name, length in found.items())
            yield f"axis {axis}: expected one length, found {shown}"
        if axis == BATCH and 0 in found.values():
            yield "expected at least one row, found an empty batch"
            continue
        wrong = [length for length in set(found.values()) if not 1 <= length <= longest.get(axis, length)]
        if wrong:
            allowed = f"1..{longest[axis]}" if axis in longest else "at least 1"
            yield f"axis {axis}: expected a length of {allowed}, found {', '.join(map(str, sorted(wrong)))}"
