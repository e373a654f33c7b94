"""The fuzzer: its parts are right, a fault of each kind is found, the corpus stays mended, a short run finds nothing."""

# ruff: noqa: S311  # no cryptography

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from runtime.checks.requests import check_drop
from tests.fuzz import campaign, execute
from tests.fuzz.case import Case
from tests.fuzz.edits import apply
from tests.fuzz.minimise import minimise
from tests.fuzz.mutate import Known, random_edits
from tests.fuzz.surfaces import SURFACES, Surface
from tests.fuzz.values import build, expand
from tests.helpers.forked import ended, run_forked, start_forked
from tests.helpers.sweep import swept

ROOT = Path(__file__).parents[2]


def _fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return run_forked(command, cwd=ROOT, capture_output=True, timeout=600)


@pytest.mark.parametrize("minutes", ["0.05", *swept("1")])
def test_some_seconds_of_cases_find_nothing(minutes: str) -> None:
    """The whole corpus, and then random cases of all surfaces; `python -m tests.fuzz --minutes 60` runs longer."""
    found = _fuzz("--minutes", minutes)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    assert "; 0 finds" in found.stdout


@pytest.mark.parametrize("path", sorted(campaign.CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_corpus_files_are_cases(path: Path) -> None:
    case = campaign.load(path)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "found": json.loads(path.read_text(encoding="utf-8"))["found"],
        **case.to_json(),
    }


# Case -> the kind of its outcome, and what it does.
_CASES: dict[str, tuple[str, Callable[[], object]]] = {
    "raises": ("exception", lambda: int("x")),
    "writes a temporary file": ("result", lambda: Path("../temporary/x").write_text("x", encoding="utf-8")),
    "writes a file": ("files", lambda: Path("new").write_text("x", encoding="utf-8")),
    "changes a file": ("files", lambda: Path("../outside/secret.txt").write_text("changed", encoding="utf-8")),
    "makes a folder": ("files", lambda: Path("~/.cache").expanduser().mkdir()),
    "makes a link": ("files", lambda: Path("../given/new").symlink_to("x")),
    "prints a traceback": ("output", lambda: os.write(2, b"Traceback (most recent call last)")),
    "takes memory": ("memory", lambda: np.empty(10**15)),
    "is refused": ("refused", lambda: check_drop(3, (1, 2), "exported")),
}


def _run_cases(folder: Path) -> int:
    """Print the kind of the outcome of each case as JSON."""

    def run(case: Case, *_: Any) -> str:
        _CASES[case.call["name"]][1]()
        return "done"

    (folder / "seeds" / "seed").mkdir(parents=True)
    surface = Surface(lambda *_: Case("wrong", "seed"), run)
    runner = execute.Runner(folder / "seeds", folder / "box")
    with patch.object(execute, "SURFACES", {**SURFACES, "wrong": surface}):
        found = {name: runner(Case("wrong", "seed", call={"name": name})).kind for name in _CASES}
    runner.close()
    print(json.dumps(found))
    return 0


def test_outcomes(tmp_path: Path) -> None:
    """In a separate process: the audit hook of a runner stays, and Python calls it for each id() of whatever runs later."""
    output = tmp_path / "output"
    errors = tmp_path / "errors"
    assert ended(start_forked(_run_cases, tmp_path, output=output, errors=errors)) == 0, errors.read_text(encoding="utf-8")
    assert json.loads(output.read_text(encoding="utf-8")) == {name: kind for name, (kind, _) in _CASES.items()}


def test_minimised_cases_keep_only_what_is_needed() -> None:
    edits = tuple({"op": "delete", "file": str(number)} for number in range(9))
    case = Case("texts", "x", edits, {"texts": ["a", "b", {"$join": ["c", "d"]}], "truncate": True})

    def fails(each: Case) -> bool:
        return {"op": "delete", "file": "5"} in each.edits and "d" in json.dumps(each.call)

    found = minimise(case, fails)
    assert found.edits == ({"op": "delete", "file": "5"},)
    assert found.call == {"texts": ["d"]}


def test_edits_of_json_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "given" / "a.json"
    path.parent.mkdir()
    path.write_text('{"x": {"y": [1, 2]}, "z": "s"}')
    edits: list[dict[str, Any]] = [
        {"op": "set", "file": "a.json", "path": ["x", "y", 1], "to": ["1e400"]},
        {"op": "twice", "file": "a.json", "path": ["z"], "to": [["[", 3], ["]", 3]]},
        {"op": "remove", "file": "a.json", "path": ["missing", 3]},
        {"op": "rename", "file": "a.json", "path": ["x"], "to": ['"\\ud800"']},
    ]
    apply(path.parent, edits)
    assert path.read_text() == '{"z": "s", "z": [[[]]], "\\ud800": {"y": [1, 1e400]}}'
    apply(path.parent, [{"op": "cut", "file": "a.json", "at": 0.1}, {"op": "link", "file": "b", "to": "outside"}])
    assert path.read_text() == '{"z":'
    assert (path.parent / "b").readlink() == tmp_path / "outside"


def test_random_cases_depend_on_the_seed_only(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": {"y": [1, 2]}, "z": "s"}')
    known = Known({"a.json": 1}, {"x": [1, 2]})
    first, second = ([random_edits(Random(f"1 {number}"), tmp_path, known) for number in range(50)] for _ in range(2))
    assert first == second
    assert len({json.dumps(edits) for edits in first}) > 40
    assert json.loads(json.dumps(first)) == [list(edits) for edits in first]


def test_a_case_is_found_again_by_its_number(tmp_path: Path) -> None:
    every, later = (campaign.generated(7, ["texts", "feeds"], tmp_path, time.monotonic() + 60, first) for first in (0, 3))
    cases = [next(every) for _ in range(9)]
    assert {case.surface for case in cases} == {"texts", "feeds"}
    assert [next(later) for _ in range(6)] == cases[3:]


def test_values_are_built() -> None:
    assert build({"$join": ["a", {"$repeat": ["bc", 2]}]}) == "abcbc"
    assert build({"$pairs": [[0, {"$tuple": [1]}]]}) == {0: (1,)}
    wide = build({"$array": {"dtype": "int64", "shape": [10**9, 5]}})
    assert wide.shape == (10**9, 5)
    assert expand(["x", ["[", 2]]) == "x[["
