"""Files of a folder, bound to the bytes that were compared with their sha256.

A folder can be replaced while a process reads it, for example by `python -m exporter --overwrite`. The process would then open
new files under an old manifest. A folder is therefore opened once, the state of every file is recorded before the file is
hashed, and every later open checks that the file has not changed since.
"""

import hashlib
import os
import shutil
import stat
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from runtime.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest, digest, read_manifest
from runtime.errors import BundleError

__all__ = ["BoundFolder", "check_files", "open_bundle"]

_LOAD_AGAIN: Final = "the bundle was replaced or changed while it was open: load it again"


@dataclass(frozen=True)
class _State:
    """Properties of a file that change if the file is replaced or written."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: str | Path) -> "_State":
        """Raises OSError, also if the path is not a regular file: a read from a pipe would not end."""
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(2, "not a file")
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(eq=False)
class BoundFolder:
    """An open folder, and the files in it whose sha256 is known.

    On Linux, all files are opened through a descriptor of the folder, so that it can be renamed, and another folder can take
    its name, without effect on this object. On other systems a replaced folder is an error when one of its files is opened.

    Attributes:
        shown: the folder as the user named it, for messages.
        path: absolute path without links.
        hashes: file name -> sha256 in lower-case hex, for every bound file.
        contents: whether the files were compared with their hashes.
    """

    shown: str
    path: Path
    hashes: dict[str, str] = field(default_factory=dict)
    contents: bool = False
    _states: dict[str, _State] = field(default_factory=dict)
    _held: dict[Path, str] = field(default_factory=dict)
    _root: str = ""

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "BoundFolder":
        """Open a folder without reading its files. Raises OSError if it is not a folder or not accessible."""
        path = Path(os.path.realpath(folder, strict=True))
        found = cls(os.fspath(folder), path)
        found._root = found._hold(path)
        return found

    def subfolder(self, name: str) -> "BoundFolder":
        """Open a folder within this one. Raises OSError if it is missing or a link."""
        at = Path(self._at(name))
        if at.is_symlink():
            raise NotADirectoryError(20, "a link")
        found = BoundFolder.open(at)
        found.shown = f"{self.shown}/{name}"
        return found

    def folders(self, name: str) -> list[str]:
        """List the names of the folders within the folder `name`; none if it is missing or a link."""
        at = Path(self._at(name))
        try:
            return [] if at.is_symlink() else sorted(path.name for path in at.iterdir() if path.is_dir())
        except OSError:
            return []

    def bind(self, hashes: Mapping[str, str], contents: bool = True, links: bool = True) -> None:
        """Record the state of files and compare the files with their hashes.

        Args:
            hashes: file name -> sha256 in lower-case hex.
            contents: compare all hashes; otherwise only those of files outside the folder that links refer to.
            links: accept links to files outside the folder, as in the cache of the Hugging Face hub.

        Raises:
            BundleError: a file is missing, unreadable, truncated or altered; the message names all such files.
        """
        problems: list[str] = []
        self.contents = contents
        for name, expected in sorted(hashes.items()):
            problems.extend(self._bind(name, expected, contents, links))
        if problems:
            self._check_path()  # an export has replaced the folder and now removes the old one
            raise BundleError(f"{self.shown}: {'; '.join(problems)}; copy the bundle again or {EXPORT_AGAIN}")

    def read(self, name: str) -> bytes:
        """Return the bytes of a bound file. Raises BundleError if they have changed."""
        try:
            content = self.read_unbound(name)
        except OSError as error:
            raise self.changed(name, error.strerror or str(error)) from error
        if self.contents or self._now(name) != self._states[name]:
            self._expect(name, hashlib.sha256(content).hexdigest())
        return content

    def map(self, name: str) -> memoryview:
        """Return the bytes of a bound file, mapped: they stay the same if another bundle takes its place.

        Raises:
            BundleError: the bytes have changed.
        """
        try:
            state = _State.of(self._at(name))
            content = np.memmap(self._at(name), np.uint8, "r").data if state.size else memoryview(b"")
        except OSError as error:
            raise self.changed(name, error.strerror or str(error)) from error
        if self.contents or state != self._states[name]:
            self._expect(name, hashlib.sha256(content).hexdigest())
        return content

    def read_unbound(self, name: str) -> bytes:
        """Return the bytes of a regular file in the folder. Raises OSError."""
        _State.of(self._at(name))
        return Path(self._at(name)).read_bytes()

    def read_first(self, name: str) -> bytes:
        """Return the bytes of a file and bind it to them. Raises OSError."""
        before = _State.of(self._at(name))
        content = self.read_unbound(name)
        self.hashes[name], self._states[name] = hashlib.sha256(content).hexdigest(), before
        return content

    def copy(self, name: str, target: Path) -> None:
        """Copy a bound file. Raises BundleError if its bytes have changed, OSError if `target` cannot be written."""
        shutil.copyfile(self._at(name), target)
        self._expect(name, digest(target))

    def place(self, name: str) -> tuple[str, str]:
        """Resolve the links of a bound file.

        Returns:
            The folder that contains the file itself, and the name of the file there.

        Raises:
            BundleError: the file has changed.
        """
        at = Path(self._at(name))
        real = at.resolve() if at.is_symlink() else None
        try:
            folder, there = (self._root, name) if real is None else (self._hold(real.parent), real.name)
            found = _State.of(_joined(folder, there))
        except OSError as error:
            raise self.changed(name, error.strerror or str(error)) from error
        if found != self._states[name]:
            self._expect(name, digest(_joined(folder, there)))
        return folder, there

    def check(self, by_path: bool = False) -> None:
        """Check that no bound file has changed.

        Args:
            by_path: also check that the path of the folder still refers to this folder.

        Raises:
            BundleError: a file has changed, or another folder has the path.
        """
        if by_path:
            self._check_path()
        for name, state in self._states.items():
            if self._now(name) != state:
                self._compare(name)

    def changed(self, name: str, reason: str) -> BundleError:
        """Return the error for a bound file that is not what it was."""
        return BundleError(f"{self.shown}: {name}: {reason}; {_LOAD_AGAIN}")

    def _check_path(self) -> None:
        try:
            same = self.path.samefile(self._root)
        except OSError:
            same = False
        if not same:
            raise BundleError(f"{self.shown}: another folder has this name now; {_LOAD_AGAIN}")

    def _bind(self, name: str, expected: str, contents: bool, links: bool) -> Iterator[str]:
        at = Path(self._at(name))
        if "/" in name and at.parent.is_symlink():
            yield f"{name}: in a folder that is a link"
            return
        try:
            before = _State.of(at)
        except OSError as error:
            yield f"{name}: missing" if isinstance(error, FileNotFoundError) else f"{name}: cannot be read: {error.strerror}"
            return
        outside = at.is_symlink() and not at.resolve().is_relative_to(Path(self._root).resolve())
        if outside and not links:
            yield f"{name}: a link that leaves the folder"
            return
        self.hashes[name], self._states[name] = expected, before
        if not contents and not outside:
            return
        try:
            found = digest(at)
            after = _State.of(at)
        except OSError as error:  # no permission, or a disk that fails
            yield f"{name}: cannot be read: {error.strerror}"
            return
        if found != expected:
            # A cache of the hub keeps a damaged file, with or without links
            kept = outside or self.path.parent.name == "snapshots"
            cached = f" in {at.resolve()}; remove that file to download it again" if kept else ""
            yield f"{name}: truncated or altered: expected sha256 {expected}, found {found}{cached}"
        elif before != after:
            yield f"{name}: changed while it was read"

    def _compare(self, name: str) -> None:
        """Accept a file whose state differs but whose bytes do not, such as a copy, or a file with a new hard link."""
        try:
            now = _State.of(self._at(name))
            found = digest(self._at(name))
        except OSError as error:
            raise self.changed(name, error.strerror or str(error)) from error
        self._expect(name, found)
        self._states[name] = now

    def _expect(self, name: str, found: str) -> None:
        if found != self.hashes[name]:
            raise self.changed(name, f"expected sha256 {self.hashes[name]}, found {found}")

    def _now(self, name: str) -> _State | None:
        try:
            return _State.of(self._at(name))
        except OSError:
            return None

    def _at(self, name: str) -> str:
        return _joined(self._root, name)

    def _hold(self, folder: Path) -> str:
        """Return a path that refers to `folder` during the life of this object, even after a rename. Raises OSError."""
        if folder in self._held or sys.platform != "linux":
            return self._held.get(folder, str(folder))
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        held = f"/proc/self/fd/{descriptor}"
        if not Path(held).is_dir():  # /proc is not mounted
            os.close(descriptor)
            return str(folder)
        weakref.finalize(self, os.close, descriptor)
        return self._held.setdefault(folder, held)


def _joined(folder: str, name: str) -> str:
    """Join with the separator of the system: a slash does not separate in the long paths of Windows."""
    return os.path.join(folder, *name.split("/"))  # noqa: PTH118 - a Path would be made for each check of a file


def open_bundle(folder: str | os.PathLike[str]) -> tuple[Manifest, BoundFolder]:
    """Open a bundle and read its manifest.

    Args:
        folder: folder of the bundle.

    Returns:
        The checked manifest, and the open folder, in which only the manifest is bound so far.

    Raises:
        BundleError: as for `read_manifest`.
    """
    try:
        files = BoundFolder.open(folder)
        content = files.read_first(MANIFEST)
    except (OSError, ValueError) as error:
        read_manifest(folder)  # raises a more precise error
        raise BundleError(f"{os.fspath(folder)}: {error}; {_LOAD_AGAIN}") from error
    return read_manifest(folder, content), files


def check_files(folder: str | os.PathLike[str], manifest: Manifest, contents: bool = True) -> None:
    """Check the files that the manifest lists; other files are ignored.

    Args:
        folder: folder of the bundle.
        manifest: its manifest.
        contents: also compare the sha256 of every file, which takes about 0.1 s per 100 MB.

    Raises:
        BundleError: a file is missing, unreadable or (with `contents`, or outside the folder) truncated or altered; the
            message names all such files.
    """
    try:
        files = BoundFolder.open(folder)
    except OSError as error:
        raise BundleError(f"{os.fspath(folder)}: cannot be read: {error.strerror}; {EXPORT_AGAIN}") from error
    files.bind(manifest.files, contents)
