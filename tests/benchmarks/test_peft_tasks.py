"""The benchmark of PEFT tasks, on a tiny model: the graph gives the outputs of the merged files, and has the trunk once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import peft_tasks
from benchmarks.peft_tasks import Row, markdown
from benchmarks.results_file import read_rows
from exporter.inspect import inspect_bundle

TINY = ("--layers", "2", "--hidden", "64", "--vocabulary", "300", "--rounds", "2", "--threads", "1", "--shapes", "1x8,2x5")


@pytest.mark.sweep
def test_a_run_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Two ranks and both task types, instead of all six
    monkeypatch.setattr(peft_tasks, "TASKS", {name: peft_tasks.TASKS[name] for name in ("intent", "domain", "entities")})
    folder, output = tmp_path / "kept", tmp_path / "results"
    assert peft_tasks.main([*TINY, "--folder", str(folder), "--output", str(output)]) == 0
    (file,) = output.glob("peft-tasks-*.jsonl")
    rows = read_rows(file, Row)
    assert [(row.way, row.shape) for row in rows] == [
        (way, shape) for shape in ("1x8", "2x5") for way in ("one graph", "six merged files")
    ]
    assert [row.ratio for row in rows[1::2]] == [1, 1]
    assert markdown(rows) in capsys.readouterr().out
    (graph,) = inspect_bundle(folder / "one", (1, 8)).graphs
    # With ranks padded with zeros, which are a large part of a model of this size.
    assert sum(graph.products.values()) < 0.8 * sum(
        sum(inspect_bundle(folder / f"merged-{name}", (1, 8)).graphs[0].products.values()) for name in peft_tasks.TASKS
    )


def test_ratios_are_times_of_the_merged_files() -> None:
    rows = [Row("one graph", "1x64", 9, 50.0, 60.0, 0.5), Row("six merged files", "1x64", 9, 100.0, 110.0, 1.0)]
    assert markdown(rows).splitlines()[2] == "| one graph | 50 ms (0.50x) |"
