"""The load test: its requests, its open loop, and a run of all candidates on a tiny model."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.engines import CANDIDATES
from benchmarks.serving.tables import Row, markdown, read
from benchmarks.serving.traffic import Point, highest, measure, requests


def write_texts(folder: Path) -> Path:
    folder.mkdir()
    lines = [{"text": f"text number {number}"} for number in range(40)] + [{"text_a": "one", "text_b": "two"}]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_requests_name_tasks_and_repeat_texts() -> None:
    given = list(islice(requests([f"text {number}" for number in range(500)], "abcd", 2, 0.5, 1), 400))
    assert all(len(set(request.tasks or ())) == 2 for request in given)
    fresh = len({request.texts for request in given})
    assert 160 < fresh < 240
    assert len({each.texts for each in islice(requests(["x", "y", "z"], "ab", 1, 0, 1), 3)}) == 3


class _Slow:
    """A service that takes 10 ms for each request, one after another."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def submit(self, _: Any) -> bytes:
        async with self._one:
            await asyncio.sleep(0.01)
        return b""


@pytest.mark.parametrize(("load", "is_held"), [(5.0, True), (500.0, False)])
def test_latency_counts_from_the_arrival(load: float, is_held: bool) -> None:
    async def run() -> Point:
        given = requests(["x"], "ab", 1, 0, 0)
        slow: Any = _Slow()
        return await measure(slow, given, load, 2.0 if is_held else 0.5, 0.2, 0)

    point = asyncio.run(run())
    assert (point.within >= 0.95 and not point.stopped) == is_held
    if not is_held:  # 250 requests take at least 2.5 s
        assert point.p95_ms > 500


def test_the_highest_load_lies_below_the_first_failure() -> None:
    points = [Point(load, 40, within, 1.0, 2.0, stopped=False) for load, within in ((1, 1.0), (2, 0.96), (4, 0.9), (8, 0.97))]
    assert highest(points) == 2
    assert highest(points[2:]) is None


def test_a_run_of_all_candidates_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.serving.__main__ import main

    texts = write_texts(tmp_path / "texts")
    common = ["--texts", str(texts), "--folder", str(tmp_path / "models"), "--output", str(tmp_path / "out"), "--small"]
    common += ["--tasks", "3", "--seconds", "0.2", "--objective", "2000", "--threads", "1"]
    assert main([*common, "--candidates", "ours"]) == 0
    assert main(common) == 0
    (file,) = (tmp_path / "out").glob("serving-*.jsonl")
    rows = read(file)
    assert [row.candidate for row in rows] == list(CANDIDATES)
    assert all(row.load is not None and row.peak_mb > 0 for row in rows)
    assert markdown(rows) in capsys.readouterr().out
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_files_that_do_not_fit_are_computed() -> None:
    row = Row("files", 64, 1, 0.0, 50.0, None, 4000.0, [], {"files_open": 8, "mb_of_all_files": 32_000.0})
    assert markdown([row]).splitlines()[-1] == (
        "| one ONNX file per task, ORTModel | 64 | 1 | 0 % | none | 32.00 GB (computed; 8 files open) |"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--candidates", "none"], "expected some of ours, "), ([], "expected test sets; write them with")],
)
def test_wrong_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    from benchmarks.serving.__main__ import main

    assert main(["--texts", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
