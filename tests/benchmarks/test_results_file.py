"""Results files: a second run of the day loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results_page
from benchmarks.machine import current_machine
from benchmarks.options import command_of, random_bert_parser
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


def test_the_command_has_no_folders_of_this_machine() -> None:
    options = random_bert_parser("fusion", None, "1x8", 3).parse_args(["--rounds", "2", "--output", "/home/a", "--shapes=1x8"])
    assert options.command == "python -m benchmarks.fusion --rounds 2 --shapes=1x8"
    given = ["--texts", "/home/a", "--folder=/b", "--seconds", "9", "--candidates", "a b"]
    assert command_of("python -m x", given) == "python -m x --texts DIR --candidates 'a b'"


def test_the_page_has_recorded_commands_and_the_newest_figures(tmp_path: Path, write: Write) -> None:
    def written(date: str, ratio: float, text: str) -> None:
        path = write(1)
        row = f'{{"kind": "row", "case": "8 members", "shape": "1x128", "rounds": 4, "ratio": {ratio}}}\n'
        head = path.read_text(encoding="utf-8").replace('"number": 1', text)
        path.unlink()
        (tmp_path / f"fusion-{date}.jsonl").write_text(head + row, encoding="utf-8")

    written("20260101", 2.0, '"number": 1')
    (row,) = results_page.table(tmp_path).splitlines()[2:]
    assert "`python -m benchmarks.fusion --shapes 1x128 --rounds 4`" in row
    written("20260102", 3.0, '"command": "python -m benchmarks.fusion --seed 5"')
    (row,) = results_page.table(tmp_path).splitlines()[2:]
    assert "| 3.00 times the throughput of PyTorch; 2.00 on 2026-01-01 |" in row
    assert "`python -m benchmarks.fusion --seed 5`" in row
