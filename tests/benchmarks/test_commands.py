"""Wrong use of the separate benchmarks is one line: sizes that no model has, and files that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import fusion, growth, markdown_tables, mixed_ranks, routed, runtime_costs, streams
from benchmarks.command import exit_status
from benchmarks.contender import MismatchError
from exporter.errors import ExportError


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (routed.main, ["--threads", "0"], "--threads: expected a whole number from 1"),
        (routed.main, ["--layers", "1"], "the model has 1 layers: expected a drop from 0 to 1, found 5"),
        (growth.main, ["--layers", "6"], "expected a drop from 0 to 6, found 9"),
        (fusion.main, ["--hidden", "33"], "--hidden: expected a multiple of 32, found 33"),
        (mixed_ranks.main, ["--tasks", "1"], "--tasks: expected a whole number from 2"),
    ],
)
def test_sizes_are_checked_first(
    main: Callable[[list[str]], int], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(markdown_tables.main, []), (streams.main, []), (runtime_costs.main, ["overhead"])],
)
def test_a_missing_file_is_one_line(
    main: Callable[[list[str]], int], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")
    assert exit_status(lambda: main([missing, *arguments])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "missing" in line


@pytest.mark.parametrize(("error", "status"), [(ExportError("x"), 2), (MismatchError("x"), 1), (OSError("x"), 2)])
def test_statuses(error: Exception, status: int) -> None:
    def fails() -> None:
        raise error

    assert exit_status(fails) == status
    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 3) == 3
