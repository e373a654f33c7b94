"""The benchmark of streams runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import streams
from tests.helpers.runtime_bundles import write_bundle


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_figures_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(tmp_path / "bundle")
    assert streams.main([str(folder), "--texts", "300", "--rounds", "1", "--task", "topic"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predict_iter / predict"] > 0
    assert found["peak MB of all"] < found["peak MB of a tenth"] + 20
