"""Failures of the compiler that no model causes."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest

from exporter import ExportError
from exporter.compile import build
from exporter.plan import Plan


def test_a_full_temporary_folder_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph whose ranges are measured is written there."""

    def full(_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "clean_groups", full)
    plan: Any = None
    with pytest.raises(ExportError, match=r"^a temporary file cannot be written: No space .*; free disk space, or set TMPDIR"):
        build.compile_plan([], plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--routed"], "which --routed requires: no rule; omit --routed, or export the tasks"),
        (["--slots"], "which --slots requires: no rule; omit --slots, or export the tasks"),
        (["--routed", "--slots"], "which --routed and --slots require: no rule; omit --routed and --slots, or export"),
        ([], "which the bundle has: no rule; export the tasks of that kind to a separate bundle"),
    ],
)
def test_a_refusal_names_the_options_given(options: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise ValueError("no rule")

    for name in ("clean_groups", "compile_groups"):
        monkeypatch.setattr(build, name, lambda *_: ([], []))
    monkeypatch.setattr(build, "_lower", lambda *_: (None, None))
    monkeypatch.setattr(build, "route_groups", refuse)
    plan = Mock(spec=Plan, tasks=(), target="portable")
    with pytest.raises(ExportError, match=f"^these tasks cannot be compiled to a routed graph, {message}"):
        build.compile_plan([], plan, routed=options)
