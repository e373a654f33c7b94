"""The files around the code: workflows, templates and settings of the repository are valid, and name what is there."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import licences, release
from tests.helpers.distributions import PARTS, ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = _read(path)["jobs"]
    return found


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    return (step for job in _jobs(path).values() for step in job["steps"])


def _pythons() -> list[str]:
    versions = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in _PROJECT["classifiers"])
    return [found[1] for found in versions if found]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_only_runs_make_targets(path: Path) -> None:
    commands = [step["run"] for step in _steps(path) if "run" in step]
    assert commands
    for command in commands:
        target = re.fullmatch(r"make ([\w-]+) PYTHON=python( TAG=\"\$GITHUB_REF_NAME\")?", command)
        assert target, command
        assert re.search(rf"^{target[1]}:", _MAKEFILE, flags=re.MULTILINE), command


@pytest.mark.parametrize("target", ["test-cpp", "test-javascript"])
def test_a_target_fails_without_what_it_needs(target: str) -> None:
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", _MAKEFILE, flags=re.MULTILINE)
    assert recipe
    assert re.search(r"-m pytest --no-skips tests/", recipe[1])


@pytest.mark.parametrize(("no_skips", "outcome"), [(False, "skipped"), (True, "failed")])
def test_a_skip_is_a_failure_with_no_skips(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, no_skips: bool, outcome: str
) -> None:
    monkeypatch.setattr(request.config.option, "no_skips", no_skips)
    call = pytest.CallInfo.from_call(lambda: pytest.skip("needs g++"), "call")
    report = request.node.ihook.pytest_runtest_makereport(item=request.node, call=call)
    assert report.outcome == outcome
    assert "needs g++" in report.longreprtext


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(path: Path) -> None:
    lines = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)]


def test_an_action_has_one_version() -> None:
    lines = {line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))}
    assert len({line.partition("@")[0] for line in lines}) == len(lines)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(path: Path) -> None:
    """Rights to write belong to the jobs that need them; names of branches and titles never reach a shell as text."""
    assert _read(path)["permissions"] == {"contents": "read"}
    writing = {name for name, job in _jobs(path).items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"attest", "publish", "deploy"}
    assert not [step["run"] for step in _steps(path) if "${{" in step.get("run", "")]
    checkouts = [step for step in _steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_all_systems_and_versions_are_tested() -> None:
    matrix = _jobs(GITHUB / "workflows" / "test.yml")["unit"]["strategy"]["matrix"]
    assert matrix["python"] == _pythons()
    named = {"Linux": "ubuntu", "MacOS": "macos", "Windows": "windows"}
    systems = [each.rpartition(" :: ")[2] for each in _PROJECT["classifiers"] if each.startswith("Operating System :: ")]
    assert sorted(named[each] for each in systems) == sorted(each.partition("-")[0] for each in matrix["system"])
    # Images that change under a name, such as ubuntu-latest, are not reproducible.
    assert not [each for each in matrix["system"] if "latest" in each]
    assert min(_pythons()) == _PROJECT["requires-python"].removeprefix(">=")


def test_a_release_is_tested_attested_and_approved() -> None:
    jobs = _jobs(GITHUB / "workflows" / "release.yml")
    assert [jobs[name].get("needs") for name in ("build", "attest", "publish")] == [None, "build", "attest"]
    runs = [step["run"].split()[1] for step in jobs["build"]["steps"] if "run" in step]
    assert runs == ["release-notes", "dist", "test-wheels"]
    versions = next(step for step in jobs["build"]["steps"] if "setup-python" in step.get("uses", ""))["with"]["python-version"]
    assert sorted(versions.split()) == _pythons()
    assert jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}  # trusted publishing: no secret
    assert "secrets." not in (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")


def test_forms_ask_for_what_is_there() -> None:
    forms = [path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for path in forms:
        form = _read(path)
        assert {"name", "description", "labels", "body"} <= form.keys()
        identifiers = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(set(identifiers)) == len(identifiers) > 1
        assert all(part["attributes"].get("label") for part in form["body"] if part["type"] != "markdown")
        for name in re.findall(r"\b(?:docs/)?\w+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), name


def test_updates_cover_what_is_pinned() -> None:
    updates = {(each["package-ecosystem"], each["directory"]) for each in _read(GITHUB / "dependabot.yml")["updates"]}
    assert updates == {("github-actions", "/"), ("npm", "/examples/javascript")}
    assert (ROOT / "examples" / "javascript" / "package.json").is_file()


def test_hooks_run_programs_of_the_lock() -> None:
    (repository,) = _read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"  # versions are those of the lock
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert program in (".venv-test/bin/ruff", ".venv-test/bin/mypy", ".venv-test/bin/python")
        assert all((ROOT / each).is_file() for each in arguments if each.startswith("tests/"))


def test_the_citation_is_that_of_the_project() -> None:
    cited = _read(ROOT / "CITATION.cff")
    assert (cited["title"], cited["version"], cited["license"]) == tuple(
        _PROJECT[key] for key in ("name", "version", "license")
    )
    (paper,) = cited["references"]
    assert paper["url"] == _PROJECT["urls"]["Paper"]


def _release(root: Path, version: str) -> Path:
    for name in ("CITATION.cff", "CHANGELOG.md", "pyproject.toml", *(f"{part}/pyproject.toml" for part in PARTS)):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = f"## [Unreleased]\n\n## [{version}] - 2026-11-27\n\n### Added\n\n- One.\n\n"
    (root / "CHANGELOG.md").write_text(text.replace("## [Unreleased]\n", entries, 1), encoding="utf-8")
    return root


def test_a_tag_of_the_version_is_released(tmp_path: Path) -> None:
    version = _PROJECT["version"]
    root = _release(tmp_path, version)
    assert list(release.problems(f"v{version}", root)) == []
    assert release.notes(version, root).startswith("### Added\n\n- One.")


def test_a_tag_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(release.problems("v9.9.9", _release(tmp_path, "9.9.8")))
    assert [line.partition(":")[0] for line in found] == [
        *("pyproject.toml", "exporter/pyproject.toml", "adapterdrop_example/pyproject.toml", "CITATION.cff", "CHANGELOG.md")
    ]
    for tag in ("", "0.1.0", "v0.1", "v0.1.0; true"):
        assert release.main(tag) == 1
        assert f"TAG: expected v and a version, such as v0.1.0, found {tag!r}" in capsys.readouterr().err


def test_the_licences_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert licences.main() == 0
    shown = capsys.readouterr()
    lines = {line.split()[0]: line for line in shown.out.splitlines()}
    assert lines.keys() == licences.required()
    assert "BSD-3-Clause" in lines["numpy"]
    assert all(len(line.split()) >= 3 and "(not stated)" not in line for line in lines.values())
    assert not shown.err
