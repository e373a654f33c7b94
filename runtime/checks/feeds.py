"""Check of the input arrays of a graph, with an error message for each mismatch."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import InputEntry, Manifest
from runtime.bundle.interface import BATCH
from runtime.errors import InputError

_OPTIONAL = "token_type_ids"
# Of one array. Beyond any batch that fits into memory; numpy.broadcast_to makes such arrays out of a few bytes.
_MOST_ELEMENTS = 2**28


class FeedCheck:
    """Fast version of `check_feeds`, prepared for one manifest.

    After a run of a graph the CPU caches hold weights, and the cost of a check is the code and data that it touches. So the
    fast path only decides whether the feeds are valid, and calls `check_feeds` for the messages if they are not.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Prepare the types, shapes and limits of all inputs of the manifest."""
        self._manifest, self._adds = manifest, _can_be_added(manifest)
        self._inputs = tuple((each.name, np.dtype(each.dtype), each.shape, each.limit) for each in manifest.inputs)
        # shape in the manifest -> smallest and largest length of each axis
        self._bounds = {each.shape: tuple(_bounds(axis, manifest) for axis in each.shape) for each in manifest.inputs}

    def __call__(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return complete feeds, as `check_feeds` does."""
        if type(feeds) is dict:
            checked = feeds.copy()
            if self._adds and _OPTIONAL not in checked and len(checked) < len(self._inputs):
                ids = feeds.get("input_ids")
                if type(ids) is np.ndarray and ids.size <= _MOST_ELEMENTS:
                    checked[_OPTIONAL] = np.zeros_like(ids)
            if self._is_valid(checked):
                return checked
        return check_feeds(feeds, self._manifest)

    def _is_valid(self, feeds: dict[str, npt.NDArray[Any]]) -> bool:
        if len(feeds) != len(self._inputs):
            return False
        shapes: dict[tuple[str, ...], tuple[int, ...]] = {}
        for name, dtype, axes, limit in self._inputs:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype:  # equal types may be different objects: slow path
                return False
            shape = array.shape
            if axes not in shapes:
                if len(shape) != len(axes):
                    return False
                for length, (least, most) in zip(shape, self._bounds[axes], strict=True):
                    if length < least or length > most:
                        return False
                shapes[axes] = shape
            elif shapes[axes] != shape:
                return False
            if array.size > _MOST_ELEMENTS:
                return False
            if not (_within(array, limit) if limit else dtype.kind != "f" or np.isfinite(array).all()):
                return False
        return len(shapes) == 1 or _agree(shapes)


def check_feeds(feeds: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """Check the input arrays, and add `token_type_ids` of zeros if they are missing and zeros are the same as none.

    Args:
        feeds: input name -> array.
        manifest: manifest with the expected inputs.

    Returns:
        The complete feeds, in the order of the manifest.

    Raises:
        InputError: a name, type, shape, length or value does not match; the message names every mismatch.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds: expected a mapping from input name to array, found {type(feeds).__name__}")
    names = [entry.name for entry in manifest.inputs]
    optional = [_OPTIONAL] if _can_be_added(manifest) else []
    problems = [f"{name}: missing" for name in names if name not in feeds and name not in optional]
    problems += [f"{name}: unknown, expected {', '.join(names)}" for name in feeds if name not in names]
    lengths: dict[str, dict[str, int]] = {}  # named axis -> input -> its length
    for entry in manifest.inputs:
        if entry.name in feeds:
            problems.extend(_array_problems(entry, array := feeds[entry.name]))
            if isinstance(array, np.ndarray) and array.ndim == len(entry.shape):
                for axis, length in zip(entry.shape, array.shape, strict=True):
                    lengths.setdefault(axis, {})[entry.name] = length
    problems.extend(_axis_problems(lengths, manifest.max_lengths))
    if problems:
        raise InputError("feeds: " + "; ".join(problems))
    checked = {name: feeds[name] for name in names if name in feeds}
    if _OPTIONAL in names:
        checked.setdefault(_OPTIONAL, np.zeros_like(checked["input_ids"]))
    return checked


def _can_be_added(manifest: Manifest) -> bool:
    """Return whether zeros are the same as no token types: not with the limit of the ids, as in GPT-2 and XLNet."""
    limits = {entry.name: entry.limit for entry in manifest.inputs}
    return limits.get(_OPTIONAL) != limits.get("input_ids")


def _array_problems(entry: InputEntry, array: object) -> Iterator[str]:
    name, dtype = entry.name, np.dtype(entry.dtype)
    if not isinstance(array, np.ndarray):
        found = type(array).__name__
        yield f"{name}: expected a numpy array, found {found}; use numpy.array(..., dtype=numpy.{entry.dtype})"
        return
    if isinstance(array, np.ma.MaskedArray):  # its minimum and maximum leave out the values under the mask
        yield f"{name}: expected a plain array, found a masked array; pass {name}.filled(0) and the mask as attention_mask"
        return
    if array.dtype != dtype:
        yield f"{name}: expected {entry.dtype}, found {array.dtype}; cast it with .astype(numpy.{entry.dtype})"
    if array.ndim != len(entry.shape):
        yield f"{name}: expected rank {len(entry.shape)} [{', '.join(entry.shape)}], found shape {list(array.shape)}"
    elif any(axis.isdecimal() and int(axis) != size for axis, size in zip(entry.shape, array.shape, strict=True)):
        yield f"{name}: expected shape [{', '.join(entry.shape)}], found {list(array.shape)}"
    if array.size > _MOST_ELEMENTS:
        yield f"{name}: expected at most {_MOST_ELEMENTS:,} numbers, found shape {list(array.shape)}; split the batch"
        return
    if not array.size or array.ndim != len(entry.shape):  # the values of another rank say nothing
        return
    if array.dtype.kind in "iu" and entry.limit and not _within(array, entry.limit):
        yield f"{name}: expected values in 0..{entry.limit - 1}, found {array.min()}..{array.max()}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"{name}: expected finite numbers, found NaN or an infinity"


def _within(array: npt.NDArray[Any], limit: int) -> bool:
    if not array.flags.c_contiguous:  # argmin and argmax would copy it
        return bool(array.min() >= 0 and array.max() < limit)
    # argmin and argmax instead of min and max: numpy's generic reductions take twice the time with cold caches
    return bool(array.item(array.argmin()) >= 0 and array.item(array.argmax()) < limit)


def _bounds(axis: str, manifest: Manifest) -> tuple[int, int]:
    return (int(axis), int(axis)) if axis.isdecimal() else (1, manifest.max_lengths.get(axis, sys.maxsize))


def _agree(shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> bool:
    """Whether axes with the same name have the same length in all inputs."""
    lengths: dict[str, int] = {}
    named = [pair for axes, shape in shapes.items() for pair in zip(axes, shape, strict=True)]
    return all(lengths.setdefault(axis, length) == length for axis, length in named)


def _axis_problems(lengths: Mapping[str, Mapping[str, int]], longest: Mapping[str, int]) -> Iterator[str]:
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
