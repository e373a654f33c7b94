"""`python -m benchmarks suite --out DIR` runs the benchmarks that make their own models, on the CPU, one after another.

Those that take an exported folder (streams, runtime_costs, soak) are run by themselves, and so are other devices.

Each benchmark is a process and writes its results into DIR. A suite that was stopped continues with the benchmark in progress,
and those that measure in rounds keep them. At the end, DIR/report.md and the pictures are made from the files of results.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options import cores
from benchmarks.results_file import read_lines
from benchmarks.suite_report import write_report
from exporter import ExportError
from runtime.command_options import CommandParser

_EPILOG = """\
exit status: 0 all benchmarks are done; 1 one of them failed or was stopped by --seconds; 2 invalid arguments
"""
_LOG = "suite.jsonl"
_TINY = ("--layers", "6", "--hidden", "64", "--rounds", "3", "--shapes", "1x16")


@dataclass(frozen=True)
class Entry:
    """One benchmark of the suite.

    Attributes:
        name: name in the suite.
        module: module with a command line that takes --output and --threads.
        arguments: its arguments.
        quick: its arguments on tiny models, which show that everything works.
        continues: whether it takes --folder and --seconds, and notes in its results whether they are complete.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    quick: tuple[str, ...]
    continues: bool = False


_TASKS_TINY = (*_TINY, "--tasks", "2", "--drop", "3")
ENTRIES = (
    Entry("main", "benchmarks", (), (*_TASKS_TINY, "--no-compile")),
    Entry("routed", "benchmarks.routed", (), _TASKS_TINY),
    Entry("states", "benchmarks.states", (), (*_TINY, "--drop", "3")),
    Entry("hot_tasks", "benchmarks.hot_tasks", (), (*_TASKS_TINY, "--slots", "4", "--registered", "9", "--looked-up", "20")),
    Entry("fusion", "benchmarks.fusion", (), _TINY),
    Entry("peft_tasks", "benchmarks.peft_tasks", ("--vocabulary", "32000"), (*_TINY, "--vocabulary", "300")),
    Entry("mixed_ranks", "benchmarks.mixed_ranks", (), _TASKS_TINY),
    Entry("paper", "benchmarks.paper", (), (*_TINY, "--tasks", "2"), continues=True),
    Entry(
        "growth",
        "benchmarks.growth",
        ("--tasks", "1,2,4,8,16,32", "--drops", "0,3,6,9"),
        (*_TINY, "--tasks", "1,2", "--drops", "0,3"),
        continues=True,
    ),
    Entry(
        "serving",
        "benchmarks.serving",
        ("--tasks", "1,8,64"),
        ("--size", "tiny", "--tasks", "3", "--candidates", "ours,adapters-split", "--load-seconds", "0.1"),
        continues=True,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = CommandParser("python -m benchmarks suite", __doc__, _EPILOG)
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results; continued if it exists")
    parser.add_argument("--only", default=",".join(names), metavar="NAME,…", help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="tiny models and few rounds: whether everything works, in minutes")
    parser.add_argument(
        "--threads", type=int, default=cores(), metavar="N", help="threads of all benchmarks; default: all cores"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="S", help="start no benchmark after this time; 0: only report"
    )
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"--only: expected some of {', '.join(names)}, found {', '.join(unknown)}")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out must be a folder, but {str(options.out)!r} is a file")
    options.out.mkdir(parents=True, exist_ok=True)
    start, left = time.monotonic(), []
    for entry in ENTRIES:
        if entry.name in wanted:
            rest = options.seconds - (time.monotonic() - start)
            left += [] if _run(entry, options.out.resolve(), options.quick, options.threads, rest) else [entry.name]
    try:
        print("wrote", *map(str, write_report(options.out)))
    except ExportError as error:
        print(f"no report: {error}", file=sys.stderr)
    if left:
        print(f"not done: {', '.join(left)}; the same command continues", file=sys.stderr)
    return int(bool(left))


def _run(entry: Entry, folder: Path, quick: bool, threads: int, seconds: float) -> bool:
    """Run a benchmark that is not done yet, and return whether it is done."""
    arguments = [*(entry.quick if quick else entry.arguments), "--threads", str(threads)]
    if _is_done(folder, entry.name, arguments):
        print(f"{entry.name}: done before", file=sys.stderr, flush=True)
        return True
    if seconds <= 0:
        return False
    print(f"{entry.name} …", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", entry.module, *arguments, "--output", str(folder)]
    if entry.continues:
        command += ["--folder", str(folder / "kept" / entry.name)]
        command += [] if seconds == float("inf") else ["--seconds", f"{seconds:.0f}"]
    before = _stamps(folder)
    start = time.monotonic()
    status = subprocess.run(command, cwd=Path(__file__).parents[1], check=False, stdout=subprocess.DEVNULL).returncode
    files = [name for name, stamp in _stamps(folder).items() if before.get(name) != stamp]
    if status:
        print(f"{entry.name}: failed with status {status}; run {' '.join(command[1:])}", file=sys.stderr, flush=True)
        return False
    # Stopped before its first round, a benchmark writes no file.
    if not files or (entry.continues and not all(_is_complete(folder / name) for name in files)):
        return False
    taken = {"entry": entry.name, "arguments": arguments, "files": files, "seconds": round(time.monotonic() - start, 1)}
    with (folder / _LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(taken) + "\n")
    return True


def _is_done(folder: Path, name: str, arguments: Sequence[str]) -> bool:
    log = folder / _LOG
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    own = [line for line in lines if (line["entry"], line["arguments"]) == (name, list(arguments))]
    return any(all((folder / file).exists() for file in line["files"]) for line in own)


def _is_complete(path: Path) -> bool:
    return all(line["complete"] for line in read_lines(path, "run"))


def _stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob(f"*-{'[0-9]' * 8}.json*"))}


if __name__ == "__main__":
    sys.exit(main())
