"""`make audit`: what it reports, what is accepted, and what it does without a vulnerability service."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import audit
from tests.helpers.licences import is_allowed, problems, required, stated
from tests.helpers.lock_files import ROOT, read_lock

_PACKAGES = {("one", "1.0"), ("transformers", "4.57.6"), ("numpy", "2.4.6"), ("numpy", "2.5.5")}


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """A stand-in for pip-audit, which reports `vulns` for each package, and skips those without."""

    def command(vulns: dict[str, Any], status: int = 0) -> list[str]:
        program = tmp_path / "pip_audit.py"
        program.write_text(
            f"import json, sys\nvulns = {vulns!r}\n"
            "pairs = [line.split('==') for line in open(sys.argv[-1]).read().split()]\n"
            "entries = [{'name': n, 'version': v, 'vulns': vulns[n]} if n in vulns else {'name': n, 'skip_reason': ''}\n"
            "           for n, v in pairs]\n"
            f"print(json.dumps({{'dependencies': entries, 'fixes': []}}))\nsys.exit({status})\n"
        )
        return [sys.executable, str(program)]

    return command


def test_every_version_of_a_package_is_looked_up(service: Any) -> None:
    report = audit.look_up(service({"one": [], "transformers": [], "numpy": []}), _PACKAGES)
    assert sorted((entry["name"], entry["version"]) for entry in report) == sorted(_PACKAGES)


def test_packages_that_were_not_looked_up(service: Any) -> None:
    # pip-audit itself exits with 0 then.
    with pytest.raises(audit.ServiceError, match="did not look up 2 of 3 packages: numpy, transformers"):
        audit.look_up(service({"one": []}), _PACKAGES)


def test_a_service_that_is_not_reached() -> None:
    command = [sys.executable, "-c", "raise SystemExit('a long message\\nConnectionError: no route')"]
    with pytest.raises(audit.ServiceError, match="cannot be reached: ConnectionError: no route"):
        audit.look_up(command, _PACKAGES)


def test_the_exit_status(service: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(audit, "locked_versions", lambda: _PACKAGES)
    monkeypatch.setattr(audit, "problems", lambda _: iter(()))
    clean: dict[str, Any] = {"one": [], "transformers": [], "numpy": []}
    assert audit.main(service(clean)) == 0
    assert "no longer found, to be removed from audit.toml: CVE-2026-4372" in capsys.readouterr().out
    found = [{"id": "PYSEC-2026-2290", "aliases": ["CVE-2026-5241"], "fix_versions": ["5.5.0"]}]
    assert audit.main(service(clean | {"transformers": found}, 1)) == 0
    assert "vulnerabilities: 1 accepted, no others" in capsys.readouterr().out
    # The same advisory for another package is not accepted.
    assert audit.main(service(clean | {"one": found}, 1)) == 1
    assert "one 1.0: CVE-2026-5241, PYSEC-2026-2290, fixed in 5.5.0" in capsys.readouterr().out
    assert audit.main(service({})) == 2
    assert "did not look up 3 of 3 packages" in capsys.readouterr().err


def test_the_locked_versions_are_those_of_all_locks() -> None:
    found = audit.locked_versions()
    assert {"transformers", "numpy", "pytest", "uv", "pip-audit", "torch"} <= {name for name, _ in found}
    # Several versions of a package are for several versions of Python.
    numpy = {str(entry.version) for entry in read_lock("test.txt") if entry.name == "numpy"}
    assert {version for name, version in found if name == "numpy"} == numpy


def test_accepted_vulnerabilities_have_reasons_and_guards() -> None:
    accepted = audit.settings()["vulnerabilities"]
    assert accepted
    for entry in accepted:
        assert entry["reason"].strip()
        assert all(re.fullmatch(r"(CVE|GHSA|PYSEC)-\S+", each) for each in entry["ids"])
        assert importlib.metadata.distribution(entry["package"])
        file, name = entry["test"].split("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text()
        for source in re.findall(r"exporter/\S+\.py", entry["reason"]):
            assert (ROOT / source).is_file()


def test_trainer_is_not_used() -> None:
    sources = [path for folder in ("exporter", "runtime", "training", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    assert not [path.name for path in sources if re.search(r"\bTrainer\b", path.read_text())]


def test_the_licences_of_what_users_install_are_allowed() -> None:
    names = required()
    assert {"numpy", "tokenizers", "onnxruntime", "torch", "transformers", "adapters", "peft"} <= names
    assert not list(problems(audit.settings()["licences"]))


def test_each_exception_is_needed() -> None:
    table = audit.settings()["licences"]
    assert set(table["accepted"]) <= required()
    without = list(problems(table | {"accepted": {}}))
    assert sorted(line.partition(":")[0] for line in without) == sorted(table["accepted"])
    assert len(list(problems(table | {"allowed": ["MIT"]}))) > 10


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MIT OR GPL-2.0-only", True),
        ("MIT AND GPL-2.0-only", False),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("(MIT OR GPL-2.0-only) AND MIT", False),
        ("", False),
    ],
)
def test_expressions(expression: str, expected: bool) -> None:
    assert is_allowed(expression, {"MIT", "Apache-2.0 WITH LLVM-exception"}) is expected


def test_where_a_licence_is_stated() -> None:
    metadata, names = Message(), {"BSD License": "BSD-3-Clause", "MIT License": "MIT"}
    assert stated(metadata, names) == ""
    metadata["License"] = "MIT License\n\nPermission is hereby granted …"
    assert stated(metadata, names) == "MIT"
    metadata["Classifier"] = "License :: OSI Approved"
    metadata["Classifier"] = "License :: OSI Approved :: BSD License"
    assert stated(metadata, names) == "BSD-3-Clause"
    metadata["License-Expression"] = "Apache-2.0"
    assert stated(metadata, names) == "Apache-2.0"
    assert json.dumps(sorted(required("numpy"))) == "[]"
