"""docs/support.md holds, row by row."""

from __future__ import annotations

import pytest
from support_rows import ROWS, Row
from support_table import documented, result, worse


def test_the_table_has_every_row_once() -> None:
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert list(documented()) == keys


def test_worse_is_worse() -> None:
    ranked = ["within 1e-05", "within 1e-04", "refused: x", "differs by 1e-01"]
    for number, one in enumerate(ranked):
        assert [worse(one, other) for other in ranked] == [other < number for other in range(len(ranked))]
    assert worse("refused: another reason", "refused: x")


@pytest.mark.parametrize("row", ROWS, ids=[row.key for row in ROWS])
def test_row(row: Row) -> None:
    (found, routed), (expected, expected_routed) = result(row), documented()[row.key]
    assert not worse(found, expected), f"{found}, but docs/support.md says {expected}"
    assert routed == expected_routed
