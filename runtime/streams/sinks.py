"""The output of a stream: a file that an interrupted run continues, or a stream that cannot be continued."""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Protocol

from runtime.bundle.whole_file import write_whole
from runtime.errors import InputError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

SUFFIX: Final = ".resume"
_FORMAT: Final = 2
_SECONDS: Final = 1.0  # between two states of an output that are safe on the disk
_UNEXPECTED: Final = "remove it, or pass --overwrite to start again"


@dataclass(frozen=True)
class Done:
    """The state of an output, from which a resumed run starts.

    Attributes:
        rows: number of rows of the input whose lines are written.
        errors: how many of them are errors.
        line: number of the last one in the input.
        bytes: bytes of the output.
        input: sha256 of the digests of these rows.
        settings: what the predictions depend on: the bundle, the tasks and the options.
        format: format of the state.
    """

    rows: int = 0
    errors: int = 0
    line: int = 0
    bytes: int = 0
    input: str = hashlib.sha256().hexdigest()
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = _FORMAT


class Sink(Protocol):
    """Where a stream writes its lines."""

    done: Done

    def write(self, line: bytes) -> None:
        """Write one line; `line` has its end."""

    def commit(self, done: Done, force: bool = False) -> None:
        """Keep the state of the output, if it is time; `bytes` is filled in."""


class StreamSink:
    """A pipe or another stream, from the beginning to the end."""

    def __init__(self, file: IO[bytes], settings: Mapping[str, Any]) -> None:
        """Write to an open stream, which stays open."""
        self._file = file
        self.done = Done(settings=settings)

    def write(self, line: bytes) -> None:
        """Write one line. Raises InputError if that is impossible, BrokenPipeError if there is no reader."""
        with _reported():
            self._file.write(line)

    def commit(self, done: Done, force: bool = False) -> None:  # noqa: ARG002 - as of Sink
        """Flush the stream. Raises as `write`."""
        self.done = done
        with _reported():
            self._file.flush()


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"--output: cannot be written: {error.strerror or error}") from error


class FileSink:
    """A file next to which a small file with the state is kept, under its name with `.resume`.

    The state is replaced only when the lines that it counts are on the disk. A resumed run cuts off what was written after it.
    So a run that is killed at any time loses no line and writes no line twice.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Open a new output, or one that was interrupted.

        Args:
            path: the file.
            settings: as in `Done`.
            overwrite: start again if there is one.

        Raises:
            InputError: the file exists without a state; it belongs to a run with other settings, or is in use; or it cannot be
                written.
        """
        self._path, self._state = path, path.with_name(path.name + SUFFIX)
        self._committed = time.monotonic()
        try:
            self.done = Done(settings=settings) if overwrite else self._found(settings)
            self._counted = (self.done.rows, self.done.bytes)  # rows, and their bytes in the file
            made, locked = not path.exists(), False
            self._file = path.open("x+b" if made else "r+b")
            try:
                self._lock()
                locked = True
                self.commit(self.done, force=True)  # first: if it fails, an earlier output stays
                self._cut()
            except BaseException:
                if fcntl is None:  # Windows removes no open file
                    self._file.close()
                if made and locked:  # otherwise another run has it
                    path.unlink()
                self._file.close()
                raise
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> "FileSink":
        """Return the sink."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and with it the lock."""
        with contextlib.suppress(OSError):  # a full disk, which `commit` has reported
            self._file.close()

    def write(self, line: bytes) -> None:
        """Write one line. Raises InputError if the disk is full."""
        try:
            self._file.write(line)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        self._bytes += len(line)

    def commit(self, done: Done, force: bool = False) -> None:
        """Make the lines so far, and then the state, safe on the disk. Raises InputError if that is impossible."""
        if done.rows != self._counted[0]:
            # After an interrupt, the file may have a line more than the rows that are forced
            self._counted = (done.rows, self._bytes)
        if not force and time.monotonic() < self._committed + _SECONDS:
            return
        state = Done(**{**vars(done), "bytes": self._counted[1]})
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            write_whole(self._state, [json.dumps(asdict(state)).encode()], tidy=force)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        self.done = state  # what a message says is what the next run finds
        self._committed = time.monotonic()

    def _found(self, settings: Mapping[str, Any]) -> Done:
        if not self._state.exists():
            if self._path.exists() and self._path.stat().st_size:
                raise InputError(f"{self._path}: exists, and no interrupted run belongs to it; {_UNEXPECTED}")
            return Done(settings=settings)
        done = read_state(self._state)
        if not done.rows:  # nothing to continue, and nothing to lose
            return Done(settings=settings)
        if changed := differences(done.settings, settings):
            raise InputError(f"{self._path}: belongs to a run with other settings: {'; '.join(changed)}; {_UNEXPECTED}")
        if not self._path.exists():
            raise InputError(f"{self._path}: is missing, but {self._state.name} is there; {_UNEXPECTED}")
        return done

    def _cut(self) -> None:
        """Remove what was written after the state."""
        size = self._file.seek(0, os.SEEK_END)
        if size < self.done.bytes:
            raise InputError(f"{self._path}: is shorter than its state in {self._state.name}; {_UNEXPECTED}")
        if size > self.done.bytes:
            self._file.truncate(self.done.bytes)
        self._bytes = self._file.seek(0, os.SEEK_END)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self._path}: another run is writing it; wait for it, or name another file") from error
        except OSError:  # a network drive without locks
            return


def read_state(path: Path) -> Done:
    """Read the state of an output.

    Raises:
        InputError: it is damaged, or has another format.
    """
    try:
        document = json.loads(path.read_bytes())
        done = Done(**document)  # TypeError for unknown fields
        counts = (done.rows, done.errors, done.line, done.bytes)
        valid = (
            document.keys() == asdict(done).keys()
            and done.format == _FORMAT
            and isinstance(done.settings, dict)
            and isinstance(done.input, str)
        )
        valid = valid and all(isinstance(count, int) and count >= 0 for count in counts)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (TypeError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{path}: expected the state of an interrupted run; {_UNEXPECTED}")
    return done


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a message for each setting that differs."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name}: then {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names]


def _shown(value: object) -> str:
    if value is None:
        return "the default"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
