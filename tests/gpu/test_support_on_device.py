"""The rows of docs/support.md, compiled for the device and run on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.support_models import Row
from tests.helpers.support_rows import ROWS
from tests.helpers.support_table import documented, result

pytestmark = pytest.mark.gpu

_PROVIDERS: dict[str, list[Any]] = {
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
    "cpu": ["CPUExecutionProvider"],
}
_RIGHT = [row for row in ROWS if documented()[row.key][0].startswith("within")]


@pytest.mark.parametrize("row", _RIGHT, ids=lambda row: row.key)
def test_row(row: Row, device: str) -> None:
    found, routed = result(row, target=device, providers=_PROVIDERS[device])
    assert found in ("within 1e-05", "within 1e-04")
    assert routed == documented()[row.key][1]
