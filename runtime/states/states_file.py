"""The file of trunk states: safetensors, with the texts joined along their tokens."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from runtime.bundle import INPUTS, StateEntry
from runtime.bundle.interface import SEQUENCE
from runtime.bundle.schema import decode, encode
from runtime.bundle.tensors import Array, check_seal, map_file, pack_parts, sealed
from runtime.bundle.whole_file import write_whole
from runtime.errors import InputError

__all__ = ["is_states_file", "read_states", "write_states"]

_KIND: Final = "adapterdrop trunk states"
_FORMAT: Final = f"{_KIND} 2"
_LENGTHS: Final = "lengths/"  # prefix of the array with the first axis of each text's array
_TOKENS: Final = ("input_ids", "attention_mask", "token_type_ids")
_NAMES: Final = {"fp16": np.float16, "fp32": np.float32}

_TYPES: Final = ("float32", "float16", "int32", "int64")


def write_states(
    path: str | os.PathLike[str],
    entries: Sequence[StateEntry],
    rows: Sequence[Mapping[str, Array]],
    drop: int,
    precision: str | None,
) -> None:
    """Write states; see `TrunkStates.save`."""
    if precision is not None and precision not in _NAMES:
        raise InputError(f"precision: expected fp32, fp16 or None, found {precision!r}")
    if not rows:
        raise InputError("save(): expected the states of at least one text, found none")
    names = {entry.name for entry in entries}
    places = _places(entries)
    tensors: dict[str, Array] = {}
    for name in rows[0]:
        arrays = [
            np.atleast_1d(np.moveaxis(row[name], places.get(name, 0), 0) if row[name].ndim else row[name]) for row in rows
        ]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise InputError(
                f"save(): expected arrays of {name} that differ only in their first axis; save these texts separately"
            )
        joined = np.concatenate(arrays)
        if name in names and precision is not None:
            joined = _rounded(joined, name, precision)
        elif joined.dtype == np.int64 and joined.size and joined.min() >= -(2**31) and joined.max() < 2**31:
            joined = joined.astype(np.int32)
        tensors[name] = np.ascontiguousarray(joined)
        tensors[f"{_LENGTHS}{name}"] = np.array(
            [array.shape[0] if row[name].ndim else -1 for row, array in zip(rows, arrays, strict=True)]
        )
    metadata = {"format": _FORMAT, "drop": str(drop), "states": json.dumps([encode(entry) for entry in entries])}
    _write(Path(path), tensors, sealed(tensors, metadata))


def read_states(path: str | os.PathLike[str]) -> tuple[tuple[StateEntry, ...], tuple[Mapping[str, Array], ...], int]:
    """Read states; see `load_states`.

    Returns:
        The entries, the rows, and the drop.
    """
    path = Path(path)
    arrays, metadata = _read(path)
    if metadata.get("format") != _FORMAT:
        raise InputError(
            f"{path}: expected a file of trunk states, found {metadata.get('format', 'a file of another program')!r}"
        )
    problems: list[str] = []
    try:
        check_seal(arrays, metadata)
        entries = tuple(decode(StateEntry, each, "states", problems) for each in json.loads(metadata["states"]))
        drop = int(metadata["drop"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged: {error}") from error
    problems += [problem for entry in entries if entry is not None for problem in entry.problems("states")]
    if problems:
        raise InputError(f"{path}: damaged: {'; '.join(problems[:5])}")
    if wrong := [name for name, array in arrays.items() if array.dtype.name not in _TYPES]:
        raise InputError(f"{path}: damaged: {wrong[0]} has the type {arrays[wrong[0]].dtype}, expected {', '.join(_TYPES)}")
    types = {entry.name: entry.dtype for entry in entries}
    places = _places(entries)
    columns = {}
    for name, array in arrays.items():
        if name.startswith(_LENGTHS):
            continue
        if name not in types and name not in INPUTS:
            raise InputError(f"{path}: damaged: expected states and inputs, found {name!r}")
        place = places.get(name, 0)
        divided = _divided(path, name, array, arrays.get(f"{_LENGTHS}{name}"))
        columns[name] = [np.moveaxis(each, 0, place) if each.ndim else each for each in divided]
    counts = {name: len(column) for name, column in columns.items()}
    if set(types) - set(columns) or len(set(counts.values())) != 1:
        raise InputError(f"{path}: damaged: expected the same number of texts in {', '.join(sorted(types))}, found {counts}")
    rows = tuple(dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    if problem := next((problem for row in rows for problem in _row_problems(row, entries)), ""):
        raise InputError(f"{path}: damaged: {problem}")
    return entries, rows, drop


def is_states_file(path: Path) -> bool:
    """Whether a file has states, of any version and possibly damaged. Raises OSError if it cannot be read."""
    try:
        return map_file(path)[1].get("format", "").startswith(_KIND)
    except ValueError:
        return False


def _places(entries: Sequence[StateEntry]) -> dict[str, int]:
    """Return the position of the sequence axis in the array of one text, along which texts are joined."""
    return {entry.name: entry.shape.index(SEQUENCE) - 1 for entry in entries if SEQUENCE in entry.shape}


def _row_problems(row: Mapping[str, Array], entries: Sequence[StateEntry]) -> Iterator[str]:
    """Yield a message for each array of a text that does not have the type or shape of its state or input."""
    lengths = {name: len(row[name]) for name in _TOKENS if name in row and row[name].ndim}
    for entry in entries:
        array = row[entry.name]
        if array.dtype.kind != "f" or array.ndim != len(entry.shape) - 1:
            yield f"{entry.name}: expected floats of rank {len(entry.shape) - 1}, found {array.dtype} {list(array.shape)}"
            continue
        for axis, size in zip(entry.shape[1:], array.shape, strict=True):
            if axis.isdecimal() and int(axis) != size:
                yield f"{entry.name}: expected an axis of {axis}, found {size}"
            elif axis == SEQUENCE:
                lengths[entry.name] = size
        if not np.isfinite(array).all():
            yield f"{entry.name}: expected finite numbers, found NaN or infinity"
    if len(set(lengths.values())) > 1:
        yield f"expected one number of tokens in a text, found {lengths}"
    for name in row.keys() - {entry.name for entry in entries}:
        if INPUTS[name] == "int64" and row[name].dtype.kind != "i":
            yield f"{name}: expected integers, found {row[name].dtype}"
    mask = row.get("attention_mask")
    if mask is not None and mask.dtype.kind == "i" and ((mask < 0) | (mask > 1)).any():
        yield "attention_mask: expected 0 and 1 only"


def _rounded(array: Array, name: str, precision: str) -> Array:
    with np.errstate(over="ignore"):
        found = array.astype(_NAMES[precision])
    if not np.isfinite(found).all():
        raise InputError(f"save(): {name} exceeds the range of {precision} (65,504): save in fp32")
    return found


def _write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    try:
        write_whole(path, pack_parts(tensors, metadata))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        return map_file(path)
    except ValueError as error:
        raise InputError(f"{path}: damaged or not a file of safetensors: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _divided(path: Path, name: str, array: Array, lengths: Array | None) -> Iterator[Array]:
    """Yield the array of each text, in the type of the file."""
    if lengths is None or lengths.ndim != 1 or lengths.dtype != np.int64 or (lengths < -1).any():
        raise InputError(f"{path}: damaged: {name} has no valid lengths")
    ends = np.cumsum(np.abs(lengths))
    if array.ndim < 1 or (ends[-1] if len(ends) else 0) != len(array):
        raise InputError(f"{path}: damaged: {name} has {len(array) if array.ndim else 0} tokens, its lengths differ")
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        own = array[end - abs(length) : end]
        yield own if length >= 0 else own[0]
