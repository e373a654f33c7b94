"""SECURITY.md names tests that exist, and the accepted vulnerabilities of the audit."""

from __future__ import annotations

import re

from tests.helpers.audit import settings
from tests.helpers.pages import ROOT, text_of

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_exists() -> None:
    found = _TEST.findall(text_of("SECURITY.md"))
    assert len(found) > 30
    assert not [f"{file}::{name}" for file, name in found if f"\ndef {name}(" not in (ROOT / file).read_text(encoding="utf-8")]


def test_every_row_has_a_file_and_a_test() -> None:
    rows = [
        line for line in text_of("SECURITY.md").splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| A"))
    ]
    assert len(rows) > 20
    for row in rows:
        _, file, test = (cell.strip(" `") for cell in row.strip("| ").split(" | "))
        assert (ROOT / file).is_file()
        assert _TEST.fullmatch(f"`{test}`")


def test_guarded_vulnerabilities_are_named() -> None:
    page = text_of("SECURITY.md")
    guarded = [entry for entry in settings()["vulnerabilities"] if entry["test"].startswith("tests/exporter")]
    assert guarded
    for entry in guarded:
        assert entry["ids"][0] in page
        assert f"`{entry['test']}`" in page
