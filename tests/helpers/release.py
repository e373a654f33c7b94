"""`make release-notes TAG=v0.1.0`: whether the versions and pages are those of a tag, and its section of CHANGELOG.md."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.distributions import PARTS, ROOT


def problems(tag: str, root: Path = ROOT) -> Iterator[str]:
    """Yield a line for each file that is not that of the release.

    Args:
        tag: `v` and a version, as git has it.
        root: the folder of the project.
    """
    version = tag.removeprefix("v")
    if tag == version or not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?", version):
        yield f"TAG: expected v and a version, such as v0.1.0, found {tag!r}"
        return
    for folder in ("", *PARTS):
        name = f"{folder}/pyproject.toml".lstrip("/")
        found = tomllib.loads((root / name).read_text(encoding="utf-8"))["project"]["version"]
        if found != version:
            yield f"{name}: expected version {version}, found {found}"
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    if cited is None or cited[1] != version:
        yield f"CITATION.cff: expected version {version}, found {cited and cited[1]}"
    if not notes(version, root):
        yield f"CHANGELOG.md: expected a section '## [{version}] - YYYY-MM-DD' with entries, as Keep a Changelog writes it"


def notes(version: str, root: Path = ROOT) -> str:
    """Return the section of a version in CHANGELOG.md, without its title; empty if it is missing."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    title = rf"^## \[{re.escape(version)}\] - [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}\n"
    found = re.search(title + r"(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def main(tag: str) -> int:
    """Print the notes, or what is wrong; the exit status is 1 then."""
    wrong = list(problems(tag))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(notes(tag.removeprefix("v")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
