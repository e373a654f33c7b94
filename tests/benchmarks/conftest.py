"""Benchmarks measure in the process of the tests, which has imported all libraries."""

from types import SimpleNamespace

import pytest

from benchmarks import rounds


@pytest.fixture(autouse=True)
def _without_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected before each round, which takes 0.1 s here, and what tests/conftest.py froze would be unfrozen."""
    names = ("collect", "disable", "enable", "freeze", "isenabled", "unfreeze")
    monkeypatch.setattr(rounds, "gc", SimpleNamespace(**dict.fromkeys(names, lambda: None)))
