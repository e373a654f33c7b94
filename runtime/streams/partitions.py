"""Folders of files, on this machine, on a shared drive or in an object store: their listing, input and output."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.errors import InputError
from runtime.streams.lines import Input, opened, unpacked
from runtime.streams.read import suffix_of
from runtime.streams.sinks import SUFFIX

_OUTPUT: Final = ".jsonl"


@dataclass(frozen=True)
class Folder:
    """A folder, by path or by an address that `pyarrow` opens, such as s3://bucket/name or gs://bucket/name.

    Attributes:
        name: path or address, without a slash at the end.
    """

    name: str

    @classmethod
    def of(cls, name: str) -> "Folder":
        """Return a folder; a path becomes absolute, because other machines and processes open it."""
        return cls(name.rstrip("/") if "://" in name else str(Path(name).absolute()))

    @property
    def is_local(self) -> bool:
        """Whether it is a path."""
        return "://" not in self.name

    def contains(self, other: "Folder") -> bool:
        """Whether another folder is this one, or in it."""
        if self.is_local and other.is_local:
            return Path(other.name).resolve().is_relative_to(Path(self.name).resolve())
        return f"{other.name}/".startswith(f"{self.name}/")

    def partitions(self) -> list[str]:
        """Return the names of the files with texts in the folder and its subfolders, in order.

        Raises:
            InputError: the folder cannot be listed, or it has no such file.
        """
        if self.is_local:
            if not Path(self.name).is_dir():
                raise InputError(f"--file {self.name}: expected a folder with a file per partition, for --engine ray")
            paths = (path.relative_to(self.name) for path in Path(self.name).rglob("*") if path.is_file())
            names = [path.as_posix() for path in paths]
        else:
            files, base = _file_system(self.name)
            try:
                found = files.get_file_info(_selector(base))
            except (OSError, ValueError) as error:
                raise InputError(f"--file {self.name}: cannot be listed: {error}") from error
            names = [each.path.removeprefix(f"{base}/") for each in found if each.is_file]
        hidden = ("_", ".")  # files of other programs, such as _SUCCESS
        visible = [name for name in names if not any(part.startswith(hidden) for part in name.split("/"))]
        known = sorted(name for name in visible if suffix_of(name))
        if not known:
            raise InputError(
                f"--file {self.name}: expected files with the suffixes txt, jsonl, csv, tsv or parquet, "
                f"found none among {len(names)} file(s)"
            )
        return known

    @contextmanager
    def opened(self, name: str) -> Iterator[Input]:
        """Open a file of the folder. Raises InputError."""
        if self.is_local:
            with opened(f"{self.name}/{name}") as source:
                yield source
            return
        files, base = _file_system(self.name)
        with unpacked(f"{self.name}/{name}", lambda: io.BufferedReader(files.open_input_file(f"{base}/{name}"))) as source:
            yield source

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Yield the path for the output of a partition. In an object store, it is brought here before and taken back after.

        Raises:
            InputError: the folder cannot be written.
        """
        if self.is_local:
            path = Path(f"{self.name}/{name}{_OUTPUT}")
            with _reported(f"--output {path}"):
                path.parent.mkdir(parents=True, exist_ok=True)
            yield path
            return
        files, base = _file_system(self.name)
        stored = f"{base}/{name}{_OUTPUT}"
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"output{_OUTPUT}"
            pairs = [(path, stored), (path.with_name(path.name + SUFFIX), stored + SUFFIX)]
            # The state last in both directions: what the output has beyond it is cut off
            with _reported(f"--output {self.name}/{name}{_OUTPUT}"):
                for own, remote in pairs:
                    with (
                        contextlib.suppress(FileNotFoundError),
                        files.open_input_file(remote) as source,
                        own.open("wb") as target,
                    ):
                        shutil.copyfileobj(source, target)
            try:
                yield path
            finally:
                with _reported(f"--output {self.name}/{name}{_OUTPUT}"):
                    files.create_dir(stored.rpartition("/")[0], recursive=True)
                    for own, remote in pairs:
                        if own.exists():
                            _copy(own.open("rb"), files.open_output_stream(remote))


def _copy(source: Any, target: Any) -> None:
    with source, target:
        shutil.copyfileobj(source, target)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot be written: {error.strerror or error}") from error


def _file_system(name: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    try:
        from pyarrow import fs
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: addresses need pyarrow: pip install 'adapterdrop-onnx[parquet]'") from error
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(name)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of both
        raise InputError(f"{name}: cannot be opened: {error}") from error
    return found


def _selector(base: str) -> Any:
    from pyarrow import fs

    return fs.FileSelector(base, recursive=True)
