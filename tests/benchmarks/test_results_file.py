"""Results files: a second run of the day loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import current_machine
from benchmarks.results_file import read_lines, write_rows

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    machine = current_machine(1)

    def writes(number: int, **options: Any) -> Path:
        return write_rows(tmp_path, "tiny", {"number": number}, machine, (), **options)

    return writes


def test_the_earlier_file_of_a_day_is_kept(tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(1)
    path.with_suffix(".png").write_bytes(b"the plot of 1")
    assert write(2) == path
    (other,) = tmp_path.glob("tiny-*-*.jsonl")
    assert [read_lines(each, "run")[0]["number"] for each in (other, path)] == [1, 2]
    assert other.with_suffix(".png").read_bytes() == b"the plot of 1"
    assert f"kept the earlier {path.name} as {other.name}" in capsys.readouterr().err


def test_a_run_that_goes_on_replaces_its_file(tmp_path: Path, write: Write) -> None:
    write(1, continued=True)
    path = write(2, continued=True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert read_lines(path, "run")[0]["number"] == 2
