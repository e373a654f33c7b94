"""Files of single tasks, which any number of services add while they run."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import ROUTED_HEADS, TaskEntry
from runtime.bundle.schema import decode
from runtime.bundle.tensors import check_seal, map_file, unpack
from runtime.errors import AdapterDropError, InputError
from runtime.slots.hot_entry import AddedFile, HotEntry, TaskWeights
from runtime.slots.layout import SlotLayout

__all__ = ["FORMAT", "VERSION", "is_task_file", "open_task_file", "own_weights"]

FORMAT: Final = "adapterdrop-task"
VERSION: Final = "2"
_MAKE_AGAIN: Final = "make it again with `python -m exporter task DIR --adapter SOURCE --output FILE`"

Array = npt.NDArray[Any]


def open_task_file(
    path: str | os.PathLike[str], name: str, layouts: Mapping[int, SlotLayout], precision: str
) -> tuple[HotEntry, dict[int, dict[str, Array]]]:
    """Read and check a task file.

    Args:
        path: the file. It must stay where it is while the task is in use: weights are read again when a slot needs them.
        name: name of the task in this predictor.
        layouts: drop -> layout of its graph with slots.
        precision: precision of the bundle.

    Returns:
        The task, and its weights by drop.

    Raises:
        InputError: the file cannot be read, is damaged, or was made for another bundle; or a weight is NaN or infinite.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"file: expected the path of a file that `python -m exporter task` made, found {path!r}")
    shown = os.fspath(path)
    where = Path(path).absolute()
    content = _content(where, shown)
    arrays, metadata = _unpacked(content, shown)
    try:
        check_seal(arrays, metadata)
    except ValueError as error:
        raise InputError(f"{shown}: damaged: {error}; {_MAKE_AGAIN}") from error
    entry = _entry(metadata, shown)
    found = _graphs(metadata, shown)
    if metadata.get("precision") != precision:
        raise InputError(
            f"{shown}: expected a task for a bundle in {precision}, found one for {metadata.get('precision')!r}: "
            f"give the file that was made for this bundle, or {_MAKE_AGAIN}"
        )
    weights, rows = {}, {}
    sha256 = hashlib.sha256(content).hexdigest()
    for drop, layout in layouts.items():
        if str(drop) not in found:
            raise InputError(f"{shown}: expected weights for drop {drop}, found drop {', '.join(found)}: {_MAKE_AGAIN}")
        group = _group(found[str(drop)], layout, shown, drop)
        rows[drop] = _rows(arrays, layout, group, drop, shown, finite=True)
        if entry.columns > layout.groups[group].columns:
            most = layout.groups[group].columns
            raise InputError(f"{shown}: expected at most {most} label(s), found {entry.columns}: {_MAKE_AGAIN}")
        weights[drop] = TaskWeights(group, _reader(where, shown, sha256, layout, group, drop))
    file = AddedFile(str(where), sha256)
    return HotEntry(**vars(replace(entry, name=name, outputs=(name,))), weights=weights, file=file), rows


def is_task_file(path: Path) -> bool:
    """Whether a file has a task, of any version and possibly damaged. Raises OSError if it cannot be read."""
    try:
        return map_file(path)[1].get("format") == FORMAT
    except ValueError:
        return False


def own_weights(content: bytes | memoryview, shown: str, layout: SlotLayout, drop: int) -> TaskWeights:
    """Return the weights of a task of the bundle, from the content of its file, whose hash the manifest has.

    Args:
        content: the content, mapped: its pages are read when a slot needs them.
        shown: the file, for messages.
        layout: layout of the graph.
        drop: drop of the variant.

    Raises:
        InputError: the file does not fit the layout.
    """
    arrays, metadata = _unpacked(content, shown)
    group = _group(_graphs(metadata, shown).get(str(drop), {}), layout, shown, drop)
    rows = _rows(arrays, layout, group, drop, shown, finite=False)
    return TaskWeights(group, lambda: rows)


def _reader(
    path: Path, shown: str, sha256: str, layout: SlotLayout, group: int, drop: int
) -> Callable[[], Mapping[str, Array]]:
    # The file is read, not mapped: a file that is cut off while it is mapped ends the process.
    # Its errors are no InputError: the call that needs the weights is as it should be.
    def read() -> Mapping[str, Array]:
        try:
            content = _content(path, shown)
        except InputError as error:
            raise AdapterDropError(f"{error}; a file must stay while its task is in use: call replace_task()") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise AdapterDropError(
                f"{shown}: the file has changed since the task was added; write a new version to another file, and call "
                "replace_task() with it"
            )
        return _rows(_unpacked(content, shown)[0], layout, group, drop, shown, finite=False)

    return read


def _content(path: Path, shown: str) -> bytes:
    try:
        mode = path.stat().st_mode  # once: the file may be removed at any time
        if not stat.S_ISREG(mode):  # reading from a pipe would not end
            raise InputError(f"{shown}: expected a task file, found {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{shown}: the task file cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL
        raise InputError(f"{shown!r}: the task file cannot be read: {error}") from error


def _unpacked(content: bytes | memoryview, shown: str) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        arrays, metadata = unpack(content)
    except ValueError as error:
        raise InputError(f"{shown}: not a task file, or damaged: {error}; {_MAKE_AGAIN}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{shown}: expected a file of `python -m exporter task`, found other weights; {_MAKE_AGAIN}")
    if metadata.get("version") != VERSION:
        found = metadata.get("version")
        raise InputError(f"{shown}: expected version {VERSION} of task files, found {found!r}; {_MAKE_AGAIN}")
    return arrays, metadata


def _entry(metadata: Mapping[str, str], shown: str) -> TaskEntry:
    problems: list[str] = []
    entry = decode(TaskEntry, _json(metadata, "task", shown), "task", problems)
    if not problems:
        problems = list(entry.problems("task"))
        if entry.head not in ROUTED_HEADS:
            problems.append(f"task.head: expected one of {', '.join(ROUTED_HEADS)}, found {entry.head}")
    if problems:
        raise InputError(f"{shown}: {'; '.join(problems[:10])}; {_MAKE_AGAIN}")
    return entry  # type: ignore[no-any-return]  # decode() returns Any: the type is its argument


def _graphs(metadata: Mapping[str, str], shown: str) -> dict[str, Mapping[str, Any]]:
    found = _json(metadata, "graphs", shown)
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise InputError(f"{shown}: graphs: expected an object for each drop; {_MAKE_AGAIN}")
    return found


def _json(metadata: Mapping[str, str], key: str, shown: str) -> Any:
    try:
        return json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown}: {key}: expected JSON, found: {error}; {_MAKE_AGAIN}") from error


def _group(found: Mapping[str, Any], layout: SlotLayout, shown: str, drop: int) -> int:
    if found.get("identity") != layout.identity:
        raise InputError(
            f"{shown}: expected a task for the graph of this bundle at drop {drop}, found one for another trunk, drop or set "
            f"of structures: give the file that was made for this bundle, or {_MAKE_AGAIN}"
        )
    group = found.get("group")
    if not isinstance(group, int) or isinstance(group, bool) or not 0 <= group < len(layout.groups):
        raise InputError(f"{shown}: group: expected a number below {len(layout.groups)}, found {group!r}; {_MAKE_AGAIN}")
    return group


def _rows(arrays: Mapping[str, Array], layout: SlotLayout, group: int, drop: int, shown: str, finite: bool) -> dict[str, Array]:
    """Return input of the graph -> weights of a task, after checking their types and shapes."""
    rows, problems = {}, []
    for weight in layout.weights:
        if weight.group != group:
            continue
        array = arrays.get(f"{drop}:{weight.name}")
        if array is None or array.shape != weight.shape or array.dtype.name != weight.dtype:
            found = "none" if array is None else f"{array.dtype.name} {list(array.shape)}"
            problems.append(f"{weight.name}: expected {weight.dtype} {list(weight.shape)}, found {found}")
        elif finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"{weight.name}: expected finite weights, found NaN or infinity")
        else:
            rows[weight.name] = array
    if problems:
        raise InputError(f"{shown}: {'; '.join(problems[:10])}; {_MAKE_AGAIN}")
    return rows
