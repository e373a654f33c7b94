"""The load test: its requests, its open loop, its search, and a run of candidates on a tiny model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest

from benchmarks.serving import __main__ as command
from benchmarks.serving import machine_load, one, prepare, traffic
from benchmarks.serving.candidates import CANDIDATES
from benchmarks.serving.machine_load import OtherProcesses
from benchmarks.serving.memory import peak_mb, reset_peak
from benchmarks.serving.plot import plot
from benchmarks.serving.tables import Results, Row, Setting, markdown, read, write
from benchmarks.serving.texts import made_texts, read_texts
from benchmarks.serving.traffic import LoadTest, Point, highest, requests
from tests.helpers.forked import run_forked
from tests.helpers.sweep import swept


def test_requests_name_tasks_and_repeat_texts() -> None:
    given = list(islice(requests([f"text {number}" for number in range(500)], "abcd", 2, 0.5, 1), 400))
    assert all(len(set(request.tasks or ())) == 2 for request in given)
    fresh = len({request.texts for request in given})
    assert 160 < fresh < 240
    assert len({each.texts for each in islice(requests(["x", "y", "z"], "ab", 1, 0, 1), 3)}) == 3


def test_texts_are_as_long_as_the_test_sets(tmp_path: Path) -> None:
    made = made_texts()
    lengths = [len(text.split()) for text in made]
    assert min(lengths) == 7
    assert max(lengths) == 62
    assert len(set(made)) > 0.99 * len(made)
    lines = [{"text": "one\u2028line"}, {"text_a": "one", "text_b": "two"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert sorted(read_texts(tmp_path), key=str) == [("one", "two"), "one\u2028line"]


class _Slow:
    """A service that takes 10 ms for each request, one after another."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def submit(self, _: Any) -> bytes:
        async with self._one:
            await asyncio.sleep(0.01)
        return b""


def _load_test(seconds: float, *objectives: float) -> LoadTest:
    return LoadTest(_Slow(), requests(["x"], "ab", 1, 0, 0), seconds, objectives)


@pytest.mark.parametrize(("load", "step", "is_held"), [(20.0, -1, True), (500.0, 28, False)])
def test_latency_counts_from_the_arrival(load: float, step: int, is_held: bool) -> None:
    point = asyncio.run(_load_test(0.5, 0.2).measure(load, step))
    assert point.holds(0) == is_held
    if not is_held:  # 250 requests take at least 2.5 s
        assert point.p95_ms > 500


def test_the_search_ends_at_neighbouring_loads() -> None:
    points = asyncio.run(_load_test(0.3, 0.005, 0.2).search())
    assert points[0].load == 0
    assert highest(points, 0) is None  # a request takes 10 ms
    load = highest(points, 1)
    assert load is not None
    assert 40 < load < 180  # 100 per second are all that it can answer; the last of 0.3 s may be late by 0.2 s
    first_missed = min(point.load for point in points if point.load and not point.holds(1))
    assert first_missed / load == pytest.approx(1.25)


class _Paused(LoadTest):
    """Answers 100 requests per second within both objectives; the first measurement of each load falls into a pause."""

    async def alone(self) -> Point:
        return await self.measure(0.0, 0)

    async def measure(self, load: float, step: int) -> Point:  # noqa: ARG002 - the signature is LoadTest's
        loads: Any = self.service
        is_first = load not in loads
        loads.append(load)
        return Point(load, 40, [0.0, 0.99] if is_first or load > 100 else [0.96, 0.98], 10.0, 20.0, stopped=load > 200)


def test_a_load_is_missed_after_two_measurements() -> None:
    loads: Any = []
    points = asyncio.run(_Paused(loads, iter(()), 1.0, (0.05, 0.1)).search())
    assert 80 < (highest(points, 0) or 0) <= 100
    assert 160 < (highest(points, 1) or 0) <= 200
    assert [point.measurements for point in points] == [loads.count(point.load) for point in points]
    assert {point.measurements for point in points} == {1, 2}


def test_the_highest_load_lies_below_the_first_failure() -> None:
    points = [Point(load, 40, [within], 1.0, 2.0, stopped=False) for load, within in ((1, 1.0), (2, 0.96), (4, 0.9), (8, 0.97))]
    assert highest(points, 0) == 2
    assert highest(points[2:], 0) is None


def test_the_peak_of_memory_is_that_since_the_reset() -> None:
    held = bytearray(b"x") * 200_000_000
    assert len(held) == 200_000_000
    most = peak_mb()
    del held
    reset_peak()
    assert 0 < peak_mb() <= most


def _arguments(folder: Path) -> list[str]:
    return ["--size", "tiny", "--folder", str(folder / "models"), "--output", str(folder), "--tasks", "3", "--threads", "1"]


_original: Any = subprocess.run


def _run(given: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Fork one candidate, and run the others here, where their libraries are imported once."""
    if given[0] != sys.executable:  # git
        done: subprocess.CompletedProcess[str] = _original(given, **options)
        return done
    _, _, module, *arguments = given
    if module == "benchmarks.serving.prepare":
        prepare.main(arguments)
        return subprocess.CompletedProcess(given, 0)
    job = one.Job.parse(arguments[0])
    if job.setting.candidate == "ours":
        return run_forked(given, **options)
    row = asyncio.run(one.measure(job))
    return subprocess.CompletedProcess(given, 0, json.dumps(dataclasses.asdict(row)), "")


@pytest.mark.parametrize("others", swept("files", "adapters-split,ours-routed,ours-cache,ours-int8,files,peft"))
def test_a_run_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    monkeypatch.setattr(subprocess, "run", _run)
    monkeypatch.setattr(traffic, "_FEWEST", 20)
    monkeypatch.setattr(traffic, "_ALONE", 5)
    common = [*_arguments(tmp_path), "--load-seconds", "0.1", "--objectives", "1000"]
    assert command.main([*common, "--candidates", "ours", "--seconds", "0"]) == 0
    assert "the same command continues" in capsys.readouterr().err
    assert command.main([*common, "--candidates", "ours"]) == 0
    assert command.main([*common, "--candidates", f"ours,{others}"]) == 0
    assert capsys.readouterr().err.count("ours, slots: ") == 1
    (file,) = tmp_path.glob("serving-tiny-*.jsonl")
    found = read(file)
    assert [row.candidate for row in found.rows] == ["ours", *others.split(",")]
    assert all(row.loads[0] is not None and row.peak_mb and row.difference is not None for row in found.rows)
    assert found.head["complete"]
    measured = (
        "python -m benchmarks.serving --size tiny --tasks 3 --threads 1 --load-seconds 0.1 --objectives 1000 --candidates ours"
    )
    assert found.head["commands"] == [measured, f"{measured},{others}"]
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_a_candidate_that_fails_is_a_row_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "a\nE: bad\n"))
    job = one.Job(Setting("files", 64, 1, 0.0), [50.0], 1.0, 1, 0, str(tmp_path), None, "cpu")
    row = command._run(job, 5)
    assert (row.reason, row.loads, row.peak_mb) == ("E: bad", [None], None)
    results = Results({"objectives": [50.0]}, (row, dataclasses.replace(row, candidate="peft", reason="")))
    assert "| one ONNX file per task, ORTModel | failed |" in markdown(results)
    assert markdown(results).endswith("Failed: one ONNX file per task, ORTModel: E: bad.")

    def late(*_: Any, **given: Any) -> None:
        raise subprocess.TimeoutExpired("python", given["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    assert command._run(job, 5).reason == "not done after 5 s"


def test_tables_and_plots_show_each_objective(tmp_path: Path) -> None:
    points = [Point(load, 40, [1.0, 1.0], 5.0, 9.0 + load, stopped=False, cpu_ms=7.5) for load in (0.0, 8.0, 10.0)]
    head = {"objectives": [50.0, 200.0], "model": {"title": "a model"}, "machine": {"threads": 2}}
    files = Row("files", 64, 1, 0.0, [None, 9.5], 4000.0, 0.0, points, {"files_open": 8, "mb_of_all_files": 32_000.0})
    ours = Row("ours", 64, 1, 0.5, [12.0, 40.0], 700.0, 0.0, points, {})
    results = Results(head, (files, ours, dataclasses.replace(ours, repeats=0.0)))
    table = markdown(results).split("\n\n")
    assert table[0].splitlines() == [
        "| requests/s, 95 % within 50 ms | 64 tasks | 64 tasks, 50 % repeated | CPU per request, 64 tasks | memory, 64 tasks |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ours, slots | 12 | 12 | 7.5 ms | 0.70 GB |",
        "| one ONNX file per task, ORTModel | none |  | 7.5 ms | 32.00 GB (computed from 8 files) |",
    ]
    assert "| one ONNX file per task, ORTModel | 9.5 |" in table[1]
    write(tmp_path / "serving-x-20260101.jsonl", results)
    assert read(tmp_path / "serving-x-20260101.jsonl").rows[1].points[2] == points[2]
    assert plot(tmp_path / "serving-x-20260101.jsonl").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "none"], "expected some of ours, "),
        (["--texts", "."], "expected test sets; write them with"),
        (["--tasks", "0"], "expected numbers of at least 1, found 0"),
        (["--tasks", "many"], "invalid list of numbers value: 'many'"),
    ],
)
def test_wrong_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert message in capsys.readouterr().err


class _Times(NamedTuple):
    user: float
    system: float
    idle: float
    guest: float


def test_the_load_of_other_processes_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    times, own, now = Mock(return_value=_Times(60.0, 40.0, 900.0, 5.0)), Mock(return_value=7.0), Mock(return_value=50.0)
    monkeypatch.setattr(machine_load, "psutil", Mock(cpu_times=times))
    monkeypatch.setattr(machine_load, "time", Mock(process_time=own, monotonic=now))
    others = OtherProcesses()
    # In 4 seconds, the cores were busy for 12, of which this process used 2.
    times.return_value, own.return_value, now.return_value = _Times(69.0, 43.0, 950.0, 8.0), 9.0, 54.0
    assert (others.own_seconds(), others.cores()) == (2.0, 2.5)
    own.return_value = 20.0  # its own time is counted in finer steps than the machine's
    assert others.cores() == 0.0
    point = Point(1.0, 40, [1.0], 1.0, 2.0, stopped=False, others=1.25)
    row = Row("ours", 64, 1, 0.0, [1.0], 100.0, 0.0, [point], {})
    assert markdown(Results({"objectives": [50.0]}, (row,))).endswith(
        "Other processes used up to 1.2 cores during a measurement."
    )


def test_keys_of_candidates_are_their_names() -> None:
    assert all(key == each.key for key, each in CANDIDATES.items())
