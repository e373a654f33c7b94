"""Ratios that hold on any machine, and exact numbers of nodes: what a slower graph changes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quick_ratios import BANDS, Found, measure_ratios

# (tasks, drop) -> nodes. All tasks are one batch: two tasks more are two nodes more, one for each output.
NODES = {(2, 0): 174, (4, 0): 176, (4, 2): 158}


def test_ratios_are_in_their_bands(tmp_path: Path) -> None:
    found = measure_ratios(tmp_path)
    assert not found.outside, {name: (ratio, BANDS[name]) for name, ratio in found.outside.items()}
    assert found.nodes == NODES


def test_a_ratio_outside_its_band_is_found() -> None:
    names = list(BANDS)
    assert Found({names[0]: 0.5, names[1]: 0.5, names[2]: 1.0, names[3]: 1.3}, {}).outside == {names[3]: 1.3}
    assert Found({names[0]: 0.1}, {}).outside == {names[0]: 0.1}
