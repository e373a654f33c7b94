"""Which rows of the support table `make test` exports: a few rows that together cover the parts that no other test covers.

The other rows combine the same parts in another way, or have a method that is traced as it is: only the reading of its
checkpoint may name it. They have the marker `sweep`, and `make test-all` exports them as well.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
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
MORE = frozenset(
    {
        "seq_bn, leave_out | single | classification | bert",
        "loreft, suffix positions | single | classification | bert",
        "lora, merged | single | classification | bert",
        "lora | single | classification | gpt2",
        "prefix_tuning | single | classification | distilbert",
        "seq_bn | single | classification | t5",
        "seq_bn | single | its own (SequenceClassification) | t5",
        "PEFT lora | single | its own (SequenceClassification) | debertav2",
        "PEFT lora | single | its own (SequenceClassification) | bart",
    }
)
# Rows whose parts other rows or other tests export and compare with PyTorch. The tuners of PEFT here become plain changes of
# weights, which test_peft_tuners.py compares. Each line of the exporter that such a row runs is in another test, as measured.
ELSEWHERE = frozenset(
    {
        "seq_bn | single | four different heads | bert",
        "seq_bn | single | classification, pooler | bert",
        "seq_bn | single | regression | bert",
        "seq_bn | single | multilabel | bert",
        "seq_bn | single | tagging | bert",
        "seq_bn | Stack with Fuse | classification | bert",
        "no adapter (full fine-tunes) | single | its own (SequenceClassification) | bert",
        "no adapter (NAME=base) next to PEFT lora | single | its own (SequenceClassification) | bert",
        "no adapter (linear heads) | single | linear over embeddings (mean) | bert",
        "PEFT lora | single | sentence embedding (lasttoken) | qwen3",
        "seq_bn | single | classification | bart",
        "PEFT lora, lowest layer dropped | single | its own (SequenceClassification) | bert",
        "PEFT boft | single | its own (SequenceClassification) | bert",
        "PEFT adalora | single | its own (SequenceClassification) | bert",
        "PEFT vera | single | its own (SequenceClassification) | bert",
        "PEFT ia3 | single | its own (SequenceClassification) | bert",
    }
)


@functools.cache
def _sources() -> str:
    folder = Path(__file__).parents[2] / "exporter"
    files = (file for room in ("models", "trace", "compile") for file in sorted((folder / room).rglob("*.py")))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@functools.cache
def _own_code(method: str) -> str:
    """The method if what traces or compiles it names it; else whose library it is of."""
    library, name = ("PEFT", method.removeprefix("PEFT ")) if method.startswith("PEFT ") else ("adapters", method)
    return method if re.search(rf"\b{re.escape(name.split()[0])}\b", _sources(), re.IGNORECASE) else library


def parts_of(row: Row) -> set[tuple[str, str]]:
    """The method if it has code, the composition, the head, the family of the architecture, and the result."""
    result, routed = documented()[row.key]
    architecture = class_of(row.architecture)
    return {
        ("method", _own_code(row.method.partition(", ")[0])),
        ("composition", row.composition),
        ("head", row.head),
        ("architecture", _FAMILIES.get(architecture, architecture)),
        ("result", result.partition(":")[0]),
        ("routed", routed),
    }


def chosen(rows: Sequence[Row]) -> frozenset[str]:
    """The keys of the rows of `make test`: again and again the first row with the most parts that nothing chosen before has."""
    left = {row.key: parts_of(row) for row in rows}
    found = set(MORE & left.keys())
    tested = [left[key] for key in left.keys() & (MORE | ELSEWHERE)]
    missing = set[tuple[str, str]]().union(*left.values()).difference(*tested)
    while missing:
        key = max(left, key=lambda each: len(left[each] & missing))
        missing -= left.pop(key)
        found.add(key)
    return frozenset(found)


def parameters(rows: Sequence[Row], table: Sequence[Row]) -> list[Any]:
    """Return the rows for `pytest.mark.parametrize`; one that is not chosen from the whole table has the marker `sweep`."""
    kept = chosen(table)
    return [pytest.param(row, id=row.key, marks=() if row.key in kept else pytest.mark.sweep) for row in rows]
