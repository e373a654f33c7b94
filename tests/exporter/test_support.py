"""docs/support.md holds, row by row; test_support_peft.py has the rows of PEFT."""

from __future__ import annotations

import pytest

from tests.helpers.peft_rows import PEFT_ROWS
from tests.helpers.support_check import check_row
from tests.helpers.support_models import Row
from tests.helpers.support_rows import ROWS
from tests.helpers.support_sweep import ELSEWHERE, MORE, chosen, parameters, parts_of
from tests.helpers.support_table import documented, worse


def test_the_table_has_every_row_once() -> None:
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert list(documented()) == keys
    assert ROWS[-len(PEFT_ROWS) :] == PEFT_ROWS


def test_the_rows_of_make_test_have_every_part() -> None:
    kept = chosen(ROWS)
    assert {row.key for row in ROWS} >= MORE | ELSEWHERE
    assert not kept & ELSEWHERE
    parts = [parts_of(row) for row in ROWS]
    assert set().union(*parts) == set().union(*(parts_of(row) for row in ROWS if row.key in kept | ELSEWHERE))
    assert len(kept) < 0.8 * len(ROWS)


def test_worse_is_worse() -> None:
    ranked = ["within 1e-05", "within 1e-04", "refused: x", "differs by 1e-01"]
    for number, one in enumerate(ranked):
        assert [worse(one, other) for other in ranked] == [other < number for other in range(len(ranked))]
    assert worse("refused: another reason", "refused: x")


@pytest.mark.parametrize("row", parameters(ROWS[: -len(PEFT_ROWS)], ROWS))
def test_row(row: Row) -> None:
    check_row(row)
