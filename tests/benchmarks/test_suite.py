"""The suite, its comparison and its report, from files made by hand and from a run on tiny models."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite
from benchmarks.cli import main
from benchmarks.intervals import change, interval
from benchmarks.kept_rounds import KeptRounds
from benchmarks.measured import read_results
from benchmarks.results_file import rounds_lines
from exporter import ExportError
from tests.helpers.forked import forked_modules as forked_modules

MACHINE = {"cpu": "A", "threads": 2, "load": 0.1, "versions": {"torch": "1"}}


def _write(folder: Path, name: str, times: Mapping[str, Sequence[float]], machine: Mapping[str, Any] = MACHINE) -> None:
    folder.mkdir(exist_ok=True)
    lines = [{"kind": "run", "machine": machine}, *rounds_lines({"1x8": times}, "eager")]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_intervals_contain_the_median_and_shrink() -> None:
    few, many = interval([1.0, 2.0, 3.0]), interval([1.0, 2.0, 3.0] * 50)
    assert few.low <= few.median == 2.0 <= few.high
    assert many.high - many.low < few.high - few.low
    assert interval([2.0]) == (2.0, 2.0, 2.0)
    assert change([1.0, 1.0], [2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_ratios_are_compared_not_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The second machine is ten times as slow; one call lost against its reference, one gained, one is only there.
    _write(tmp_path / "a", "x-20260101.jsonl", {"eager": [1.0] * 5, "same": [0.5] * 5, "lost": [0.5] * 5, "won": [0.5] * 5})
    slow = {**MACHINE, "cpu": "B", "versions": {"torch": "2"}}
    more = {"eager": [10.0] * 4, "same": [5.0] * 4, "lost": [6.0] * 4, "won": [4.0] * 4, "new": [1.0] * 4}
    _write(tmp_path / "b", "x-20260202.jsonl", more, slow)
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["compare", *folders]) == 0
    printed = capsys.readouterr().out
    assert "torch: 1 and 2" in printed
    assert "3 ratios: 1 slower and 1 faster by more than 5 %" in printed
    assert "only in A: 0, only in B: 1" in printed
    assert main(["compare", *folders, "--limit", "10"]) == 1
    assert main(["compare", *folders, "--limit", "30%"]) == 0


def test_the_newest_file_of_a_benchmark_counts(tmp_path: Path) -> None:
    _write(tmp_path, "x-20260101.jsonl", {"eager": [1.0], "ours": [1.0]})
    _write(tmp_path, "x-20260102.jsonl", {"eager": [1.0], "ours": [0.5]})
    (tmp_path / "old-20260101.jsonl").write_text('{"kind": "run"}\n', encoding="utf-8")
    found = read_results(tmp_path)
    assert found.rows["x", "1x8", "ours"].ratios == [0.5]
    assert found.without == ("old-20260101.jsonl",)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "found no folder"), ("", "has no results with rounds"), ("{", "is not a results file")]
)
def test_what_cannot_be_compared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    _write(tmp_path / "a", "x-20260101.jsonl", {"eager": [1.0], "ours": [1.0]})
    if content is not None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "x-20260101.jsonl").write_text(content, encoding="utf-8")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert message in capsys.readouterr().err


def test_folders_with_nothing_in_common_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "a", "x-20260101.jsonl", {"eager": [1.0], "ours": [1.0]})
    _write(tmp_path / "b", "y-20260101.jsonl", {"eager": [1.0], "ours": [1.0]})
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no measurement in common" in capsys.readouterr().err


def test_the_committed_results_are_read() -> None:
    found = read_results(Path(__file__).parents[2] / "benchmarks" / "results")
    assert found.rows["bert-base", "1x128", "ours"].reference == "parallel"
    assert found.rows["paper", "8 tasks, 1x128", "ours n = 5"].reference == "eager n = 0"


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    rounds = KeptRounds(tmp_path, {"seed": 0})
    rounds.measure("1x8", {"a": list, "b": list}, 2, 0)
    with (tmp_path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"group": "1x8", "sec')
    again = KeptRounds(tmp_path, {"seed": 0})
    assert again.count("1x8") == 2
    again.measure("1x8", {"a": list, "b": list}, 3, 0)
    assert [len(own) for own in KeptRounds(tmp_path, {"seed": 0}).times("1x8").values()] == [3, 3]
    with pytest.raises(ExportError, match="created with the options"):
        KeptRounds(tmp_path, {"seed": 1})


def test_every_entry_names_a_command_line() -> None:
    programs = {"benchmarks": "benchmarks.cli", "benchmarks.serving": "benchmarks.serving.__main__"}
    for entry in suite.ENTRIES:
        module = importlib.import_module(programs.get(entry.module, entry.module))
        for arguments in (entry.arguments, entry.quick):
            with pytest.raises(SystemExit) as stop:
                module.main([*arguments, "--threads", "1", "--output", "results", "--help"])
            assert stop.value.code == 0


@pytest.mark.usefixtures("forked_modules")
@pytest.mark.sweep
def test_a_suite_goes_on_where_it_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = next(entry for entry in suite.ENTRIES if entry.name == "states")
    monkeypatch.setattr(suite, "ENTRIES", (states, suite.Entry("tiny", "tests.helpers.tiny_benchmark", (), (), continues=True)))
    own = ["suite", "--out", str(tmp_path), "--quick", "--threads", "1"]
    assert main([*own, "--seconds", "0"]) == 1
    assert "not done: states, tiny" in capfd.readouterr().err
    assert main(own) == 1
    assert "not done: tiny" in capfd.readouterr().err
    assert main(own) == 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## states" in report
    assert "| 1x16 | run_branches() over kept states | 3 |" in report
    assert len(list(tmp_path.glob("*-ratios.png"))) == 2
    assert capfd.readouterr().err.count("done before") == 1
    assert main(own) == 0
    assert capfd.readouterr().err.count("done before") == 2
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0


@pytest.mark.usefixtures("forked_modules")
def test_a_benchmark_without_a_round_is_not_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = suite.Entry("tiny", "tests.helpers.tiny_benchmark", (), (), continues=True)
    monkeypatch.setattr(suite, "ENTRIES", (tiny,))
    own = ["suite", "--out", str(tmp_path), "--threads", "1"]
    assert main([*own, "--seconds", "0.3"]) == 1
    assert "not done: tiny" in capfd.readouterr().err
    assert main(own) == 1
    assert main(own) == 0


def test_the_suite_has_every_benchmark_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    first = page.split("```")[1]
    for module in set(re.findall(r"-m (benchmarks\.\w+)", first)):
        assert module in [entry.module for entry in suite.ENTRIES]


def test_times_of_another_model_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, tasks in (("a", 2), ("b", 3)):
        for name in ("x", "y"):
            _write(tmp_path / folder, f"{name}-20260101.jsonl", {"eager": [1.0], "ours": [1.0]})
        path = tmp_path / folder / "x-20260101.jsonl"
        path.write_text(path.read_text().replace('"kind": "run"', f'"kind": "run", "tasks": {tasks}'))
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["compare", *folders]) == 0
    printed = capsys.readouterr().out
    assert "x is not compared, because the models differ: tasks 2 and 3" in printed
    assert "1 ratios: 0 slower" in printed
    for folder in "ab":
        (tmp_path / folder / "y-20260101.jsonl").unlink()
    assert main(["compare", *folders]) == 2
    assert "x: tasks 2 and 3" in capsys.readouterr().err


def test_unknown_benchmarks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["suite", "--out", str(tmp_path), "--only", "rooted"])
    assert "found rooted" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["suite", "compare", "quick_ratios"])
def test_commands_are_modules_too(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As the other benchmarks: `python -m benchmarks.suite` did nothing."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert f"benchmarks {name}" in capsys.readouterr().out
