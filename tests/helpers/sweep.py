"""Parameters of tests that only `make test-all` takes."""

from __future__ import annotations

from typing import Any

import pytest


def swept(*cases: Any) -> list[Any]:
    """The cases, tuples where a test has several parameters, with the marker `sweep`."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.sweep) for case in cases]
