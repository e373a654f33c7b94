"""The rows of PEFT in docs/support.md hold, with both versions of transformers."""

from __future__ import annotations

import pytest

from tests.helpers.peft_rows import PEFT_ROWS
from tests.helpers.support_check import check_row
from tests.helpers.support_models import Row


@pytest.mark.parametrize("row", PEFT_ROWS, ids=lambda row: row.key)
def test_row(row: Row) -> None:
    check_row(row)
