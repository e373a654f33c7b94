"""The Markdown pages of the project, and the commands and code in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "adapterdrop_example" / "README.md"]))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
# Programs whose commands may stand inside a sentence or a table; other code in backticks is no command.
_INLINE = re.compile(r"`((?:python -m|make|serve run|pip install|adapterdrop) [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the block right behind it, which shows the output of a command."""

    page: str
    language: str
    text: str
    output: str | None = None


def name_of(page: Path) -> str:
    """The page's path inside the project."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: str) -> str:
    """The text of a page by its path inside the project."""
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """The page without code blocks, tables and comments."""
    text = re.sub(r"<!--.*?-->", "", _FENCE.sub("", text_of(page)), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def blocks(language: str) -> Iterator[Block]:
    """All blocks in a language, page by page."""
    for page in map(name_of, PAGES):
        text = text_of(page)
        found = list(_FENCE.finditer(text))
        for match, following in itertools.zip_longest(found, found[1:]):
            if match[1] != language:
                continue
            shown = following is not None and following[1] == "text" and not text[match.end() : following.start()].strip()
            yield Block(page, language, match[2], following[2] if following is not None and shown else None)


def commands() -> dict[str, list[str]]:
    """Every command of the pages, without comments -> the pages that show it."""
    found: dict[str, list[str]] = {}
    for block in blocks("sh"):
        for line in filter(None, (line.partition(" #")[0].strip() for line in block.text.splitlines())):
            found.setdefault(line, []).append(block.page)
    for page in map(name_of, PAGES):
        for line in _INLINE.findall(_FENCE.sub("", text_of(page))):
            found.setdefault(line, []).append(page)
    return found


def words(command: str) -> list[str]:
    """The arguments of a command as a shell splits them."""
    return shlex.split(command)
