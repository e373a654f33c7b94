"""Each family of adapters is exported without the library of the other one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def export_without(library: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.helpers.export_without", library, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("library", "other", "refusal"),
    [
        pytest.param(  # as all tests of make test-peft5
            "adapters",
            "peft",
            "needs the adapters library, which is not installed: pip install 'adapterdrop-onnx[export,adapters,cpu]'",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            "peft", "adapters", "not installed: pip install 'adapterdrop-onnx[export,peft,cpu]'", marks=pytest.mark.adapters
        ),
    ],
)
def test_one_family_without_the_other_library(library: str, other: str, refusal: str, tmp_path: Path) -> None:
    found = export_without(library, tmp_path)
    assert found["modules"] > 100
    assert found["there"] == {library: False, other: True}
    assert found["loaded"] == [other]
    assert found["difference"] < 1e-5
    assert refusal in found["refusal"]
    assert str(tmp_path / "other") in found["refusal"]
