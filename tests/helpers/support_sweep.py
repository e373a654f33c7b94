"""Which rows of the support table `make test` exports: few that together have every part of the table.

The other rows combine the same parts in another way. They have the marker `sweep`, and `make test-all` exports them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.support_models import Row, class_of
from tests.helpers.support_table import documented

# Architecture -> the one whose code it shares, but for sizes, names and settings that its own unit tests have.
_FAMILIES = {
    "xlmroberta": "roberta",
    "llama": "qwen2",
    "mistral": "qwen2",
    "mbart": "bart",
    "mt5": "t5",
    "beit": "vit",
    "dinov2": "vit",
}
# Rows that run lines of the exporter that no row of equal parts runs, as measured for each row.
_MORE = frozenset(
    {
        "seq_bn, leave_out | single | classification | bert",
        "loreft, suffix positions | single | classification | bert",
        "lora, merged | single | classification | bert",
        "lora | single | classification | gpt2",
        "prefix_tuning | single | classification | distilbert",
        "seq_bn | single | classification | bart",
        "seq_bn | single | classification | t5",
        "seq_bn | single | its own (SequenceClassification) | t5",
        "PEFT lora, lowest layer dropped | single | its own (SequenceClassification) | bert",
    }
)


def parts_of(row: Row) -> set[tuple[str, str]]:
    """The method without its settings, the composition, the head, the family of the architecture, and the result."""
    result, routed = documented()[row.key]
    architecture = class_of(row.architecture)
    return {
        ("method", row.method.partition(", ")[0]),
        ("composition", row.composition),
        ("head", row.head),
        ("architecture", _FAMILIES.get(architecture, architecture)),
        ("result", result.partition(":")[0]),
        ("routed", routed),
    }


def chosen(rows: Sequence[Row]) -> frozenset[str]:
    """The keys of the rows of `make test`: again and again the first row with the most parts that no chosen row has."""
    left = {row.key: parts_of(row) for row in rows}
    found = set(_MORE & left.keys())
    missing = set[tuple[str, str]]().union(*left.values()).difference(*(left[key] for key in found))
    while missing:
        key = max(left, key=lambda each: len(left[each] & missing))
        missing -= left.pop(key)
        found.add(key)
    return frozenset(found)


def parameters(rows: Sequence[Row]) -> list[Any]:
    """The rows for `pytest.mark.parametrize`, those that are not chosen with the marker `sweep`."""
    kept = chosen(rows)
    return [pytest.param(row, id=row.key, marks=() if row.key in kept else pytest.mark.sweep) for row in rows]
