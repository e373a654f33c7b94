"""How the time grows, predicted and measured: by hand, and a run on a tiny model in two pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth, growth_model
from benchmarks.growth_model import Point, Row, rows
from benchmarks.options import Shape
from benchmarks.results_file import read_rows

TINY = ("--layers", "2", "--hidden", "32", "--drops", "0,1", "--tasks", "1,2,3", "--rounds", "2", "--shapes", "1x8")


def test_times_that_grow_as_the_operations_are_predicted() -> None:
    points = [Point(drop, tasks) for drop in (0, 1, 2) for tasks in (1, 2, 4)]
    flops = {point: 10**9 * (point.drop + (4 - point.drop) * point.tasks) for point in points}
    # The second round takes twice as long; an overhead in one of the graphs shows only there.
    times = {point: [1e-9 * flops[point], 2e-9 * flops[point]] for point in points}
    times[Point(2, 2)] = [each * 1.5 for each in times[Point(2, 2)]]
    found = rows(Shape(1, 8), times, flops, layers=4)
    assert [(row.drop, row.tasks, row.layers) for row in found] == [
        (0, 1, 4), (0, 2, 7), (0, 4, 13), (1, 1, 4), (1, 2, 6), (1, 4, 10), (2, 1, 4), (2, 2, 5), (2, 4, 7),
    ]  # fmt: skip
    assert [row.by_operations for row in found] == pytest.approx([0, 0, 0, 0, 0, 0, 0, 0.5, 0])
    assert [row.by_layers for row in found if row.by_layers is not None] == pytest.approx([0, 0, 0, 0, 0.5])
    assert (found[7].median_ms, found[7].by_operations_ms) == pytest.approx((13500, 9000))
    assert growth_model.markdown(found).splitlines()[-1] == "| drop 2 | 6,000 ms | 13,500 ms (+50 %) | 15,000 ms |"


@pytest.mark.sweep
def test_a_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "kept", tmp_path / "results"
    own = [*TINY, "--folder", str(folder), "--output", str(output)]
    assert growth.main([*own, "--seconds", "0"]) == 0
    assert "no round is measured yet" in capsys.readouterr().out
    assert not output.exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.onnx")}
    assert len(before) == 3 * 2
    assert growth.main([*own, "--seconds", "1e-9"]) == 0  # one round at least
    assert growth.main(own) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.onnx")} == before
    (results,) = output.iterdir()
    found = read_rows(results, Row)
    assert [(row.drop, row.tasks, row.rounds) for row in found] == [(n, t, 2) for n in (0, 1) for t in (1, 2, 3)]
    assert all(row.median_ms > 0 for row in found)
    assert found[2].gflop - found[1].gflop == pytest.approx(found[1].gflop - found[0].gflop, rel=0.01)  # label counts differ
    assert [row.by_layers is None for row in found] == [True, False, True] * 2
    assert len(json.loads(results.read_text(encoding="utf-8").splitlines()[-1])["times_ms"]["drop 0, 1 task(s)"]) == 2
    assert growth.main([*own, "--seed", "1"]) == 2
    assert "was created with the options" in capsys.readouterr().err
