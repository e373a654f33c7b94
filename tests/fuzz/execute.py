"""Runs one case in this process and judges its outcome."""

from __future__ import annotations

import gc
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter import ExportError
from runtime.errors import AdapterDropError
from tests.fuzz.box import Box, WriteWatch
from tests.fuzz.case import Case, Outcome
from tests.fuzz.edits import apply
from tests.fuzz.surfaces import SURFACES, Printed, WrongOutputError

SLOWEST = 10.0  # seconds of a case
COMPLETE = 60.0  # of a complete export
MOST_MEMORY = 2 * 2**30  # bytes above those of the process before the case
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Unable to allocate",
    "MemoryError",
    "bad_alloc",
    "bad allocation",
)
_ROOT = Path(__file__).parents[2]


class Runner:
    """Runs cases in one process, one after the other."""

    def __init__(self, seeds: Path, box: Path) -> None:
        """Prepare this process.

        Args:
            seeds: the folder of the seeds.
            box: the folder in which cases run; it is made anew for each.
        """
        self._box, self._watch = Box(box.resolve(), seeds), WriteWatch()
        self._seed: str | None = None  # in the box; None if other files of the box have changed
        self._streams = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # for the life of the process

    def close(self) -> None:
        """Close the streams."""
        for stream in self._streams:
            stream.close()

    def __call__(self, case: Case) -> Outcome:
        """Run a case."""
        self._prepare(case)
        before = self._box.snapshot()
        base = _restart_peak()
        start = time.process_time()  # on a busy machine, the clock says little; a case that sleeps is ended by the pool
        with self._surroundings():
            outcome = self._judged(case)
        seconds = time.process_time() - start
        gc.collect()
        for text in (self._printed().error,):
            if outcome.kind in ("result", "refused") and "Traceback (most recent call last)" in text:
                outcome = Outcome("output", _last_frame(text), text[-2000:])
        if (grown := _peak() - base) > MOST_MEMORY:
            outcome = Outcome("memory", case.surface, f"{grown / 2**20:.0f} MiB; {outcome.detail}")
        after = self._box.snapshot()
        changed = dict.fromkeys(path for path, _ in sorted(set(before.items()) ^ set(after.items())))
        named = SURFACES[case.surface].outputs(case, self._box)
        if wrong := [path for path in changed if path in before or not path.startswith(named)]:
            outcome = Outcome("files", Path(wrong[0]).name, ", ".join(wrong))
        elif self._watch.found:
            outcome = Outcome("files", self._watch.found[0], ", ".join(self._watch.found))
        if changed or self._box.is_used():
            self._seed = None
        if seconds > (COMPLETE if case.call.get("complete") else SLOWEST):
            outcome = Outcome("hang", case.surface, f"{seconds:.1f} s; {outcome.kind} {outcome.detail}")
        return Outcome(outcome.kind, outcome.where, outcome.detail[:2000], seconds)

    def _prepare(self, case: Case) -> None:
        """Give the case a box like new; system calls are most of the time of a small case, so one that is new is kept."""
        seed = case.seed if SURFACES[case.surface].copies else ""
        if self._seed is None:
            self._box.prepare(seed)
        elif seed != self._seed:
            self._box.give(seed)
        apply(self._box.given, case.edits)
        self._seed = "edited" if case.edits else seed

    def _judged(self, case: Case) -> Outcome:
        try:
            return Outcome("result", detail=SURFACES[case.surface].run(case, self._box, self._printed))
        except (ExportError, AdapterDropError) as error:
            text = f"{type(error).__name__}: {error}"
            # With more memory than the fuzzer has, the work would have gone on.
            kind = (
                "memory" if any(words in text for words in _OUT_OF_MEMORY) else "refused" if str(error).strip() else "exception"
            )
            return Outcome(kind, "" if kind == "refused" else _last_frame(traceback.format_exc()), text)
        except MemoryError:
            return Outcome("memory", _last_frame(traceback.format_exc()), traceback.format_exc()[-2000:])
        except WrongOutputError as error:
            return Outcome("output", f"{case.surface} {str(error).splitlines()[0]}", str(error))
        except BaseException as error:  # panics of Rust code are no subclasses of Exception
            text = traceback.format_exc()
            return Outcome("exception", f"{type(error).__name__} {_last_frame(text)}", text[-2000:])

    def _printed(self) -> Printed:
        sys.stdout.flush()
        sys.stderr.flush()
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
        return Printed(*texts)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Let the case run in its box, and catch what it prints, also from other languages."""
        saved = [os.dup(number) for number in (1, 2)]
        environment, current = dict(os.environ), Path.cwd()
        for number, stream in enumerate(self._streams, 1):
            stream.seek(0)
            stream.truncate()
            os.dup2(stream.fileno(), number)
        temporary = str(self._box.temporary)
        os.environ.update(HOME=str(self._box.root / "home"), TMPDIR=temporary, COLUMNS="100")
        os.environ.update(TORCHINDUCTOR_CACHE_DIR=temporary, MPLCONFIGDIR=temporary)  # caches of libraries
        tempfile.tempdir = temporary
        os.chdir(self._box.current)
        self._watch.root, self._watch.found = str(self._box.root.resolve()), []
        try:
            yield
        finally:
            self._watch.root = ""
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(saved, 1):
                os.dup2(old, number)
                os.close(old)
            os.chdir(current)
            tempfile.tempdir = None
            os.environ.clear()
            os.environ.update(environment)


def limit_memory() -> None:
    """Let an allocation far beyond the bound fail rather than take the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * resource.getpagesize() + 3 * MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _restart_peak() -> int:
    """Let the kernel count the peak of memory anew, and return the memory now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _peak()


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _last_frame(text: str) -> str:
    """Return the last line of a traceback that is in this repository, and the last one of all."""
    frames = [line.strip().split(", ") for line in text.splitlines() if line.strip().startswith('File "')]
    places = [(parts[0][6:-1], parts[1].removeprefix("line ")) for parts in frames if len(parts) > 1]
    ours = [place for place in places if f"{_ROOT}/exporter" in place[0] or f"{_ROOT}/runtime" in place[0]]
    shown = [f"{Path(path).parent.name}/{Path(path).name}:{line}" for path, line in (*ours[-1:], *places[-1:])]
    return " < ".join(dict.fromkeys(shown))
