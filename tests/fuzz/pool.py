"""Worker processes, forked from this one, which has imported everything: a new one costs milliseconds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz.case import Case, Outcome
from tests.fuzz.execute import SLOWEST, Runner, limit_memory

# Seconds of computing, and seconds without any: on a busy machine, the clock says little.
_LONGEST, _IDLE = 10 * SLOWEST, 3 * SLOWEST
_CASES = 300  # of a worker, so that no state grows


@dataclass
class _Worker:
    pid: int
    pipe: Connection
    box: Path
    case: Case | None = None
    since: float = 0.0
    computed: float = 0.0  # seconds of the processor before the case
    seen: tuple[float, float] = (0.0, 0.0)  # seconds of the processor, and when they last grew
    done: int = field(default=0)


class Pool:
    """Runs cases in worker processes; a worker that dies or does not end is replaced."""

    def __init__(self, seeds: Path, folder: Path, jobs: int = 1) -> None:
        """Prepare `jobs` workers, which are started when they are needed; their boxes are in `folder`."""
        self._seeds, self._folder, self._jobs = seeds, folder, jobs
        self._workers: list[_Worker] = []
        gc.collect()
        gc.freeze()  # what is imported; otherwise a collection after each case takes longer than the case

    def map(self, cases: Iterable[Case]) -> Iterator[tuple[Case, Outcome]]:
        """Run cases and yield each with its outcome, in the order in which they end."""
        source = iter(cases)
        more = True
        while more or any(worker.case for worker in self._workers):
            while more and len([worker for worker in self._workers if worker.case]) < self._jobs:
                case = next(source, None)
                more = case is not None
                if case is not None:
                    self._start(case)
            yield from self._finished()

    def run(self, case: Case) -> Outcome:
        """Run one case in a new worker."""
        self.close()
        return next(outcome for _, outcome in self.map([case]))

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._end(worker)

    def _start(self, case: Case) -> None:
        idle = next((worker for worker in self._workers if worker.case is None), None)
        worker = self._fork() if idle is None else idle
        worker.case, worker.since, worker.computed = case, time.monotonic(), _computed(worker.pid)
        worker.seen = worker.computed, worker.since
        worker.pipe.send(case)

    def _fork(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        box = (
            self._folder
            / f"box{next(number for number in range(1000) if number not in {int(each.box.name[3:]) for each in self._workers})}"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            ours.close()
            _serve(theirs, self._seeds, box)
        theirs.close()
        worker = _Worker(pid, ours, box)
        self._workers.append(worker)
        return worker

    def _finished(self) -> Iterator[tuple[Case, Outcome]]:
        busy = [worker for worker in self._workers if worker.case]
        ready = wait([worker.pipe for worker in busy], timeout=0.5)
        for worker in busy:
            case, seconds = worker.case, time.monotonic() - worker.since
            assert case is not None
            if worker.pipe in ready:
                try:
                    outcome: Outcome = worker.pipe.recv()
                except EOFError:
                    yield case, self._died(worker, case, seconds)
                    continue
                worker.case, worker.done = None, worker.done + 1
                if worker.done >= _CASES:
                    self._end(worker)
                yield case, outcome
            elif _hangs(worker):
                self._end(worker)
                yield case, Outcome("hang", case.surface, "killed", seconds)

    def _died(self, worker: _Worker, case: Case, seconds: float) -> Outcome:
        self._workers.remove(worker)
        worker.pipe.close()
        status = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Outcome("crash", f"{case.surface} {how}", how, seconds)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)


def _hangs(worker: _Worker) -> bool:
    """Whether the worker has computed for too long, or waits for what does not come."""
    computed, now = _computed(worker.pid), time.monotonic()
    if computed > worker.seen[0]:
        worker.seen = computed, now
    return computed - worker.computed > _LONGEST or now - worker.seen[1] > _IDLE


def _computed(pid: int) -> float:
    """Return the processor's seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_child(function: Any, *arguments: Any) -> None:
    """Call a function in a forked process, so that its threads and state stay out of this one.

    Raises:
        RuntimeError: it failed; its traceback is on standard error.
    """
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            sys.stdout.flush()
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function.__name__} failed")


def _serve(pipe: Connection, seeds: Path, box: Path) -> None:
    """Answer cases with outcomes until the pipe is closed."""
    status = 1
    try:
        torch.set_num_threads(1)
        limit_memory()
        run = Runner(seeds, box)
        while True:
            case = pipe.recv()
            random.seed(0)
            np.random.seed(0)  # of the libraries
            torch.manual_seed(0)
            pipe.send(run(case))
    except EOFError:
        status = 0
    finally:
        if status and not isinstance(sys.exc_info()[1], EOFError):
            sys.excepthook(*sys.exc_info())
        os._exit(status)
