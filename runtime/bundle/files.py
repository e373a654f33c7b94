"""The files of a folder, bound to the bytes that their listed sha256 names.

A folder may be replaced while somebody reads it: `python -m exporter --overwrite` does that. What is read afterwards would be
new files under an old manifest. So a folder is opened once, every file is noted before it is hashed, and whoever opens a file
later checks that it is still the one that was hashed.
"""

import hashlib
import os
import stat
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest, digest, read_manifest
from runtime.errors import BundleError

__all__ = ["BoundFolder", "check_files", "open_bundle"]

_OPEN: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LOAD_AGAIN: Final = "the bundle was replaced or changed while it was open: load it again"


@dataclass(frozen=True)
class _State:
    """What differs where a file is another one, or was written to."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: str) -> "_State":
        """Raises OSError, also where it is no regular file: a pipe would never end."""
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(2, "not a file")
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(eq=False)
class BoundFolder:
    """A folder whose files are those that were compared with their sha256.

    On Linux everything is opened through a descriptor of the folder: it may be renamed, and another one may take its name, and
    what is opened here is still in the first one. Elsewhere a replaced folder is noticed when a file of it is opened.

    Attributes:
        shown: the folder as the user calls it, for messages.
        path: its absolute path, without links.
        hashes: file name -> sha256 in lower-case hex of every file that was bound.
        contents: whether contents were compared with them when they were bound.
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
        """Open `folder`; nothing in it is read yet. Raises OSError where it is no folder or cannot be searched."""
        path = Path(os.path.realpath(folder, strict=True))
        found = cls(os.fspath(folder), path)
        found._root = found._hold(path)
        return found

    def bind(self, hashes: Mapping[str, str], contents: bool = True, links: bool = True) -> None:
        """Note every file of `hashes` and compare it with its sha256.

        Args:
            hashes: file name -> sha256 in lower-case hex.
            contents: False skips the comparison, but for files that a link brings from outside the folder.
            links: whether a link may lead out of the folder, as in the cache of the Hugging Face hub.

        Raises:
            BundleError: names every file that is missing, unreadable, truncated or altered.
        """
        problems: list[str] = []
        self.contents = contents
        for name, expected in sorted(hashes.items()):
            problems.extend(self._bind(name, expected, contents, links))
        if problems:
            raise BundleError(f"{self.shown}: {'; '.join(problems)}; copy the bundle again or {EXPORT_AGAIN}")

    def read(self, name: str) -> bytes:
        """The bytes of a bound file. Raises BundleError where they are not those that were bound."""
        try:
            content = self.read_unbound(name)
        except OSError as error:
            raise self._changed(name, error.strerror or str(error)) from error
        if self.contents or self._now(name) != self._states[name]:
            found = hashlib.sha256(content).hexdigest()
            if found != self.hashes[name]:
                raise self._changed(name, f"expected sha256 {self.hashes[name]}, found {found}")
        return content

    def read_unbound(self, name: str) -> bytes:
        """The bytes of any regular file in the folder. Raises OSError."""
        _State.of(self._at(name))
        return Path(self._at(name)).read_bytes()

    def read_first(self, name: str) -> bytes:
        """The bytes of a file, which is bound to them. Raises OSError."""
        before = _State.of(self._at(name))
        content = self.read_unbound(name)
        self.hashes[name], self._states[name] = hashlib.sha256(content).hexdigest(), before
        return content

    def place(self, name: str) -> tuple[str, str]:
        """The folder in which a bound file really lies and its name there: what a link leads to.

        Raises:
            BundleError: it is not the file that was bound.
        """
        real = Path(self._at(name)).resolve() if Path(self._at(name)).is_symlink() else None
        folder, there = (self._root, name) if real is None else (self._hold(real.parent), real.name)
        try:
            found = _State.of(str(Path(folder) / there))
        except OSError as error:
            raise self._changed(name, error.strerror or str(error)) from error
        if found != self._states[name]:
            self._compare(name)
        return folder, there

    def check(self, by_path: bool = False) -> None:
        """Raise BundleError where a bound file is not the one any more that it was.

        Args:
            by_path: what was opened was opened by the path of the folder, which must then still be the folder's.
        """
        if by_path:
            try:
                same = self.path.samefile(self._root)
            except OSError:
                same = False
            if not same:
                raise BundleError(f"{self.shown}: another folder has this name now; {_LOAD_AGAIN}")
        for name, state in self._states.items():
            if self._now(name) != state:
                self._compare(name)

    def _bind(self, name: str, expected: str, contents: bool, links: bool) -> Iterator[str]:
        at = self._at(name)
        try:
            before = _State.of(at)
        except OSError as error:
            yield f"{name}: missing" if isinstance(error, FileNotFoundError) else f"{name}: cannot be read: {error.strerror}"
            return
        outside = Path(at).is_symlink() and not Path(at).resolve().is_relative_to(Path(self._root).resolve())
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
            yield f"{name}: truncated or altered: expected sha256 {expected}, found {found}"
        elif before != after:
            yield f"{name}: changed while it was read"

    def _compare(self, name: str) -> None:
        """Accept a file of another state and the same bytes: a copy, or one that got another link or owner."""
        try:
            now = _State.of(self._at(name))
            found = digest(self._at(name))
        except OSError as error:
            raise self._changed(name, error.strerror or str(error)) from error
        if found != self.hashes[name]:
            raise self._changed(name, f"expected sha256 {self.hashes[name]}, found {found}")
        self._states[name] = now

    def _now(self, name: str) -> _State | None:
        try:
            return _State.of(self._at(name))
        except OSError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _changed(self, name: str, reason: str) -> BundleError:
        return BundleError(f"{self.shown}: {name}: {reason}; {_LOAD_AGAIN}")

    def _hold(self, folder: Path) -> str:
        """A path that leads to `folder` for as long as this object lives, whatever it is called then."""
        if folder in self._held or sys.platform != "linux":
            return self._held.get(folder, str(folder))
        descriptor = os.open(folder, _OPEN | os.O_DIRECTORY)
        held = f"/proc/self/fd/{descriptor}"
        if not Path(held).is_dir():  # no /proc here
            os.close(descriptor)
            return str(folder)
        weakref.finalize(self, os.close, descriptor)
        return self._held.setdefault(folder, held)


def open_bundle(folder: str | os.PathLike[str]) -> tuple[Manifest, BoundFolder]:
    """The checked manifest of the bundle in `folder`, and the folder, in which the manifest alone is bound yet.

    Raises:
        BundleError: as `read_manifest`.
    """
    try:
        files = BoundFolder.open(folder)
        content = files.read_first(MANIFEST)
    except (OSError, ValueError) as error:
        read_manifest(folder)  # says what is wrong
        raise BundleError(f"{os.fspath(folder)}: {error}; {_LOAD_AGAIN}") from error
    return read_manifest(folder, content), files


def check_files(folder: str | os.PathLike[str], manifest: Manifest, contents: bool = True) -> None:
    """Compare the files of the bundle in `folder` with its manifest.

    Files that the manifest does not list are ignored.

    Args:
        folder: the bundle's.
        manifest: what it should hold.
        contents: also compare every file's sha256, which takes some 0.1 s per 100 MB.

    Raises:
        BundleError: names every listed file that is missing, unreadable, truncated or altered.
    """
    try:
        files = BoundFolder.open(folder)
    except OSError as error:
        raise BundleError(f"{os.fspath(folder)}: cannot be read: {error.strerror}; {EXPORT_AGAIN}") from error
    files.bind(manifest.files, contents)
