"""Failures of the compiler that no model causes."""

from __future__ import annotations

import errno
from typing import Any, NoReturn

import pytest

from exporter import ExportError
from exporter.compile import build


def test_a_full_temporary_folder_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph whose ranges are measured is written there."""

    def full(_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "clean_groups", full)
    plan: Any = None
    with pytest.raises(ExportError, match=r"^a temporary file cannot be written: No space .*; free disk space, or set TMPDIR"):
        build.compile_plan([], plan)
