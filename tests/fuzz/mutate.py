"""Random changes of a folder: the structure of its JSON files is known, and so are keys and values that mean something."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.edits import LINKS
from tests.fuzz.values import TEXTS, raw_json

_BYTES = ("00", "ff", "7b", "22", "0a", "80", "ffffffffffffffff", "0000000000000080", "efbbbf", "fffe0000")


@dataclass(frozen=True)
class Known:
    """Knowledge of the files of a surface.

    Attributes:
        files: the files to change, with how often; a file of a seed that is not named is only changed as a file.
        keys: keys that may be added to a file's objects, with values that mean something.
        names: names of files that may be written in addition.
    """

    files: Mapping[str, int]
    keys: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    names: Sequence[str] = ()


def random_edits(random: Random, folder: Path, known: Known, most: int = 4) -> tuple[dict[str, Any], ...]:
    """Return one or more changes of the folder.

    Args:
        random: the source of randomness.
        folder: the folder as it is before any change.
        known: what to change.
        most: the largest number of changes.
    """
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    weights = [max((count for name, count in known.files.items() if path.endswith(name)), default=0) for path in there]
    count = min(random.choice([1, 1, 1, 2, 2, 3, 4, 6]), most)
    edits = []
    for _ in range(count):
        name = random.choices(there, weights)[0] if any(weights) and random.random() < 0.95 else random.choice(there)
        structured = name.endswith((".json", ".safetensors"))
        if structured and random.random() < 0.88:
            edits.append(_in_json(random, folder / name, name, known))
        else:
            edits.append(_in_file(random, name, [*there, *known.names]))
    return tuple(edits)


def below(folder: str, edits: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return the changes with their files in a subfolder."""
    moved = [{**edit, "file": f"{folder}/{edit['file']}"} for edit in edits]
    return tuple(edit | ({"to": f"{folder}/{edit['to']}"} if edit["op"] == "copy" else {}) for edit in moved)


def _in_json(random: Random, path: Path, name: str, known: Known) -> dict[str, Any]:
    content = _read(path)
    place, value = _place(random, content)
    op = random.choices(["set", "add", "twice", "remove", "rename"], [10, 4, 1, 2, 1])[0]
    if op == "add":
        if known.keys and random.random() < 0.7:
            key = random.choice(sorted(known.keys))
            where = [] if random.random() < 0.7 else place[:-1]
            return {"op": "add", "file": name, "path": [*where, key], "to": raw_json(random, known.keys[key])}
        place = [*place, random.choice([text for text in TEXTS if isinstance(text, str)])] if isinstance(value, dict) else place
    values = known.keys.get(str(place[-1]), ()) if place else ()
    if op == "rename":
        texts = [json.dumps(text) for text in TEXTS if isinstance(text, str)]
        return {"op": op, "file": name, "path": place, "to": [random.choice(texts)]}
    if op == "remove":
        return {"op": op, "file": name, "path": place}
    if random.random() < 0.2:  # a value from another place, which has the right form for that
        _, other = _place(random, content)
        if len(text := json.dumps(other)) < 300:
            return {"op": op, "file": name, "path": place, "to": [text]}
    if random.random() < 0.15 and isinstance(value, int | float) and not isinstance(value, bool):
        return {"op": op, "file": name, "path": place, "to": [str(value + random.choice([-1, 1, value, 0.5]))]}
    return {"op": op, "file": name, "path": place, "to": raw_json(random, values)}


def _read(path: Path) -> Any:
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return json.loads(content)


def _place(random: Random, content: Any) -> tuple[list[Any], Any]:
    """Walk down from the root, and stop somewhere: shallow places are found more often."""
    path: list[Any] = []
    while isinstance(content, dict | list) and content and (not path or random.random() < 0.75):
        key: Any = random.choice(list(content)) if isinstance(content, dict) else random.randrange(len(content))
        content = content[key]
        path.append(key)
    return path, content


def _in_file(random: Random, name: str, names: Sequence[str]) -> dict[str, Any]:
    op = random.choices(
        ["flip", "insert", "cut", "fill", "delete", "link", "directory", "pipe", "write", "copy"],
        [6, 2, 3, 1, 3, 2, 1, 1, 2, 2],
    )[0]
    edit: dict[str, Any] = {"op": op, "file": name}
    if op in ("flip", "insert", "cut", "fill"):
        edit["at"] = round(random.random() ** random.choice([1, 4]), 6)  # the headers of files are at their start
    if op in ("flip", "insert", "fill"):
        edit["bytes"] = random.choice(_BYTES)
    elif op == "link":
        edit["to"] = random.choice(LINKS)
    elif op == "write":
        edit["file"] = random.choice(names)
        edit["to"] = raw_json(random)
    elif op == "copy":
        edit["file"], edit["to"] = random.choice(names), random.choice(names)
    return edit
