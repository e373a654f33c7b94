"""Changes of files: of single values in JSON files and headers of safetensors files, of bytes, and of the files themselves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.bundle import MANIFEST, digest
from tests.fuzz.values import expand

_HEADER = 8  # bytes of the length of a safetensors header
# Targets of links, relative to the box of a case.
LINKS = ("outside/secret.txt", "outside", "missing", "/dev/zero", "/dev/null", "/proc/self/mem", ".", "..", "self")


def apply(folder: Path, edits: Sequence[Mapping[str, Any]]) -> None:
    """Apply changes in order; a change whose file or place does not exist any more is left out.

    Args:
        folder: the folder of the files, within the box of the case.
        edits: "op" is one of set, add, twice, remove, rename (places in JSON), flip, insert, cut, fill (bytes), delete, link,
            directory, pipe, write, copy (files) and hash (the manifest lists the files as they are); "file" is relative to
            `folder`.
    """
    documents: dict[str, _Document] = {}
    for edit in edits:
        name, op = edit["file"], edit["op"]
        if op in ("set", "add", "twice", "remove", "rename"):
            if name not in documents and (found := _Document.read(folder / name)) is not None:
                documents[name] = found
            if name in documents:
                documents[name].change(op, edit["path"], edit.get("to", []))
            continue
        for document in (documents.pop(key) for key in list(documents) if key == name or op in ("hash", "copy")):
            document.write()
        _on_files(folder, folder / name, op, edit)
    for document in documents.values():
        document.write()


class _Document:
    """A JSON file, or the header of a safetensors file, with raw texts in places."""

    def __init__(self, path: Path, content: Any, rest: bytes | None) -> None:
        self.path, self.content, self.rest = path, content, rest
        self._texts: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> _Document | None:
        """Read a file; None if it has no JSON any more."""
        if not path.is_file():  # a pipe
            return None
        try:
            content = path.read_bytes()
            if path.suffix != ".safetensors":
                return cls(path, json.loads(content), None)
            end = _HEADER + int.from_bytes(content[:_HEADER], "little")
            return cls(path, json.loads(content[_HEADER:end]), content[end:])
        except (OSError, ValueError, RecursionError):
            return None

    def change(self, op: str, path: Sequence[Any], to: Sequence[Any]) -> None:
        place = self.content
        try:
            for key in path[:-1]:
                place = place[key]
            if not path:
                if op == "set":
                    self.content = self._marked(expand(to))
                return
            key = path[-1]
            if op == "set":
                place[key] = self._marked(expand(to))
            elif op == "add" and isinstance(place, list):
                place.insert(key if isinstance(key, int) else 0, self._marked(expand(to)))
            elif op == "add":
                place[key] = self._marked(expand(to))
            elif op == "twice":
                place[self._marked(json.dumps(key))] = self._marked(expand(to))
            elif op == "remove":
                del place[key]
            elif op == "rename":
                place[self._marked(expand(to))] = place.pop(key)
        except (LookupError, TypeError, AttributeError):
            return

    def _marked(self, text: str) -> str:
        marker = f"@@{len(self._texts)}@@"
        self._texts[marker] = text
        return marker

    def write(self) -> None:
        text = json.dumps(self.content)
        for marker, raw in self._texts.items():
            text = text.replace(json.dumps(marker), raw)
        content = text.encode("utf-8", "surrogatepass")
        if self.rest is not None:
            content = len(content).to_bytes(_HEADER, "little") + content + self.rest
        self.path.write_bytes(content)


def _on_files(folder: Path, path: Path, op: str, edit: Mapping[str, Any]) -> None:
    if op == "hash":
        _refresh(folder)
    elif op in ("flip", "insert", "cut", "fill"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(_on_bytes(path.read_bytes(), op, edit))
    elif op in ("delete", "link", "directory", "pipe", "write", "copy"):
        if op == "copy" and not (folder / edit["to"]).is_file():
            return
        content = (folder / edit["to"]).read_bytes() if op == "copy" else b""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if op == "link":
            target = edit["to"]
            box = folder.parent
            path.symlink_to(path.name if target == "self" else target if target.startswith(("/", ".")) else box / target)
        elif op == "directory":
            path.mkdir()
        elif op == "pipe":
            os.mkfifo(path)
        elif op == "write":
            path.write_bytes(expand(edit["to"]).encode("utf-8", "surrogatepass"))
        elif op == "copy":
            path.write_bytes(content)


def _on_bytes(content: bytes, op: str, edit: Mapping[str, Any]) -> bytes:
    at = int(edit["at"] * len(content))
    if op == "cut":
        return content[:at]
    new = bytes.fromhex(edit["bytes"])
    return content[:at] + new + content[at + (len(new) if op == "flip" else 0) :] if op != "fill" else new * (len(content) or 1)


def _refresh(folder: Path) -> None:
    """Write the hashes of the files as they are now into the manifest."""
    document = _Document.read(folder / MANIFEST)
    if document is None or not isinstance(document.content, dict) or not isinstance(document.content.get("files"), dict):
        return
    for name in document.content["files"]:
        if not Path(name).is_absolute() and (folder / name).is_file() and not (folder / name).is_symlink():
            document.content["files"][name] = digest(folder / name)
    document.write()
