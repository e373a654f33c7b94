"""Tests that share fixtures run in one worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.groups import TOGETHER, group_of


def test_a_file_is_a_group_and_a_row_is_one() -> None:
    assert group_of("tests/a/test_b.py::test_c") == group_of("tests/a/test_b.py::test_d[tests/x.py::y]") == "tests/a/test_b.py"
    rows = [f"tests/exporter/test_support.py::test_row[{name} | bert]" for name in ("lora", "ia3")]
    assert [group_of(row) for row in rows] == rows
    assert group_of("tests/runtime/on_ray/test_serve.py::test_a") == group_of("tests/runtime/on_ray/test_engine.py::test_b")
    start = "tests/gpu/test_parity.py::test_logits_equal_those_of_pytorch"
    assert len({group_of(f"{start}[{case}]") for case in ("vit-own-fp32", "vit-portable-fp16", "lora-own-fp32")}) == 2


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="needs workers: pytest -n 2")
@pytest.mark.parametrize("number", range(6))
def test_a_file_runs_in_one_worker(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first test of this file that runs says in which worker; the others run there as well."""
    said = tmp_path_factory.getbasetemp().parent / "worker of test_groups"
    worker = os.environ["PYTEST_XDIST_WORKER"]
    if not said.exists():
        said.write_text(worker, encoding="utf-8")
    assert said.read_text(encoding="utf-8") == worker


def test_files_that_share_a_worker_exist() -> None:
    assert all((Path(__file__).parents[1] / start).exists() for start in TOGETHER)
