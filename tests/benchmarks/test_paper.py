"""The figures of the paper: from times made by hand, and from a run on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fusion, paper
from benchmarks.paper_tables import figures, markdown

TINY = ("--layers", "6", "--hidden", "32", "--tasks", "2", "--rounds", "2", "--shapes", "1x8", "--threads", "1")


def test_figures_are_those_of_the_paper_for_its_times() -> None:
    eager = {"eager n = 0": [1.0, 2.0], "eager n = 5": [0.61, 1.22]}
    tasks = {"8 tasks": {**eager, "ours n = 0": [0.5, 0.5], "ours n = 5": [0.25, 0.25]}}
    speeds = {"fine-tuned": 0.24, "2 members": 0.375, "8 members": 0.63, "8 members, drop 5": 0.5}
    fusion = {f"{who} {case}": [seconds] * 2 for who in ("eager", "ours") for case, seconds in speeds.items()}
    flops = {"8 tasks": {"n = 0": 4, "n = 5": 3}, "fusion": {case: int(1000 * each) for case, each in speeds.items()}}
    found = {(row.table, row.what): row for row in figures("1x8", {**tasks, "fusion": fusion}, flops, [8, 16], [2, 8])}
    layer, five = found["layer", "8 tasks"], found["five", "8 tasks"]
    assert (layer.eager.median, five.eager.median) == pytest.approx((0.078, 0.39))
    assert (layer.published, five.published, five.by_operations) == (0.078, 0.39, 0.25)
    assert (five.ours.median, five.throughput.median) == pytest.approx((0.5, (0.61 / 0.25 + 1.22 / 0.25) / 2))
    assert ("layer", "16 tasks") not in found
    assert found["fusion", "2 members"].eager.median == pytest.approx(0.64)
    assert found["fusion", "2 members instead of 8"].eager.median == pytest.approx(0.68)
    assert found["fusion", "8 members, drop 5"].ours.median == pytest.approx(0.26)
    assert "five shared layers, 8 tasks | 39 % | 39 % (39 to 39) | 50 % (50 to 50) | 25 % |" in markdown(list(found.values()))


@pytest.mark.sweep
def test_a_run_goes_on_and_draws_each_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "_MEMBERS", (2, 8))
    monkeypatch.setattr(fusion, "_names", lambda count: [f"m{number}" for number in range(min(count, 3))])  # 3 instead of 8
    own = [*TINY, "--folder", str(tmp_path / "kept"), "--output", str(tmp_path / "results")]
    assert paper.main([*own, "--seconds", "0"]) == 0
    assert "no round is measured yet" in capsys.readouterr().out
    assert paper.main(own) == 0
    (file,) = (tmp_path / "results").glob("paper-*.jsonl")
    rows = paper.read_figures(file)
    assert [row.table for row in rows] == ["layer", "five", *["fusion"] * 4]
    assert all(row.rounds == 2 for row in rows)
    assert rows[1].by_operations == pytest.approx(1 - (6 + 0) / (1 + 4 * 2), abs=0.12)  # the last layer: one row
    assert markdown(rows) in capsys.readouterr().out
    assert len(list((tmp_path / "results").glob("*.png"))) == 3


def test_too_few_layers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper.main(["--layers", "5"])
    assert "--layers must be more than 5" in capsys.readouterr().err
