"""The rows of PEFT in docs/support.md hold, with both versions of transformers."""

from __future__ import annotations

import pytest

from tests.helpers.peft_rows import PEFT_ROWS
from tests.helpers.support_check import check_row
from tests.helpers.support_models import Row
from tests.helpers.support_sweep import parameters
from tests.helpers.support_table import result
from tests.helpers.tiny_peft import TRANSFORMERS_5

try:
    from tests.helpers.support_rows import ROWS
except ImportError:  # no adapters library: make test-peft5 exports every row of PEFT
    ROWS = PEFT_ROWS

# From version 5 on, transformers' BERT for one task takes no states of earlier tokens, without which PEFT has no prefixes.
_PREFIXES = ("PEFT prefix_tuning", "PEFT cartridge")


@pytest.mark.parametrize("row", parameters(PEFT_ROWS, ROWS))
def test_row(row: Row) -> None:
    if TRANSFORMERS_5 and row.method in _PREFIXES:
        assert "as past_key_values, which its forward() does not have" in result(row)[0]
    else:
        check_row(row)
