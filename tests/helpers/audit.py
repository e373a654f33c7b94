"""`make audit`: known vulnerabilities of the locked packages, and licences of what users install.

The exit status is 0 without a finding, 1 for findings, and 2 if the vulnerability service did not look up every package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.helpers.licences import SETTINGS, problems
from tests.helpers.lock_files import LOCKS, pinned_torch, read_lock


class ServiceError(Exception):
    """The vulnerability service did not look up every package."""


def settings() -> dict[str, Any]:
    """Return the content of requirements/audit.toml."""
    return tomllib.loads(SETTINGS.read_text(encoding="utf-8"))


def locked_versions() -> set[tuple[str, str]]:
    """Return the names and versions in the lock files, and torch."""
    torch = Requirement(pinned_torch())
    found = {(entry.name, str(entry.version)) for name in LOCKS for entry in read_lock(name)}
    return found | {(torch.name, next(iter(torch.specifier)).version)}


def look_up(command: Sequence[str], versions: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Look up packages with pip-audit.

    Args:
        command: pip-audit with its options.
        versions: names and versions; of the same name there may be several.

    Returns:
        The entries of its report: name, version, and a list of vulnerabilities.

    Raises:
        ServiceError: a package was not looked up, for example because there is no network.
    """
    # A file of requirements has each name once.
    files: list[dict[str, str]] = []
    for name, version in sorted(versions):
        file = next((each for each in files if name not in each), None)
        if file is None:
            files.append(file := {})
        file[name] = version
    found = [entry for file in files for entry in _report(command, file)]
    # pip-audit exits with 0 if the service knows none of the packages, which is what a mirror or a proxy answers.
    if skipped := sorted({entry["name"] for entry in found if "vulns" not in entry}):
        raise ServiceError(
            f"the vulnerability service did not look up {len(skipped)} of {len(files[0])} packages: "
            f"{', '.join(skipped[:5])}{', …' if len(skipped) > 5 else ''}"
        )
    return found


def _report(command: Sequence[str], versions: Mapping[str, str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
        options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--requirement", str(path)]
        done = subprocess.run([*command, *options], capture_output=True, encoding="utf-8", check=False)
    try:
        entries: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.strip().splitlines() or [f"pip-audit ended with status {done.returncode}"])[-1]
        raise ServiceError(f"the vulnerability service cannot be reached: {last}") from error
    return entries


def findings(report: Iterable[Mapping[str, Any]], accepted: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return a line for each vulnerability that is not accepted, and the first id of each accepted one that was not found."""
    lines, seen = [], set()
    for entry in report:
        for each in entry["vulns"]:
            ids = {each["id"], *each.get("aliases", ())}
            known = [one["ids"][0] for one in accepted if one["package"] == entry["name"] and ids & set(one["ids"])]
            seen |= set(known)
            if not known:
                fixed = ", ".join(each.get("fix_versions") or ()) or "no version"
                lines.append(f"{entry['name']} {entry['version']}: {', '.join(sorted(ids))}, fixed in {fixed}")
    return lines, [each["ids"][0] for each in accepted if each["ids"][0] not in seen]


def main(command: Sequence[str]) -> int:
    """Print the findings and return the exit status; `command`: pip-audit with its options."""
    table = settings()
    licences = list(problems(table["licences"]))
    print("\n".join(licences) or "licences: all are allowed")
    try:
        report = look_up(command, locked_versions())
    except ServiceError as error:
        print(f"{error}. Nothing is known about vulnerabilities: run `make audit` with access to the service", file=sys.stderr)
        return 2
    lines, unused = findings(report, table["vulnerabilities"])
    print("\n".join(lines) or f"vulnerabilities: {len(table['vulnerabilities']) - len(unused)} accepted, no others")
    if unused:
        print(f"no longer found, to be removed from {SETTINGS.name}: {', '.join(unused)}")
    return int(bool(licences or lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
