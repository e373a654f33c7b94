"""Links, anchors and paths in the pages resolve; the README is short; the architecture page has every package."""

from __future__ import annotations

import pkgutil
import re

import pytest

from tests.helpers.pages import PAGES, ROOT, name_of, prose_of, text_of
from tests.test_layering import ORDER

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:exporter|runtime|benchmarks|training|tests|docs)/[\w/.-]*)`")
_CODE = re.compile(r"`((?:exporter|runtime)(?:\.\w+)+)`")
_NAMES = [name_of(page) for page in PAGES]


def _anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def _links(page: str) -> list[tuple[str, str]]:
    """Path inside the project and anchor of each relative link."""
    found = []
    for link in _LINK.findall(text_of(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        found.append((path.resolve().relative_to(ROOT).as_posix(), anchor))
    return found


@pytest.mark.parametrize("page", _NAMES)
def test_links_resolve(page: str) -> None:
    links = _links(page)
    assert not [path for path, _ in links if not (ROOT / path).exists()]
    assert not [link for link in links if link[1] and link[1] not in _anchors(link[0])]


@pytest.mark.parametrize("page", _NAMES)
def test_paths_are_there(page: str) -> None:
    assert not [path for path in _PATH.findall(text_of(page)) if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", _NAMES)
def test_names_of_the_code_are_there(page: str) -> None:
    for name in _CODE.findall(text_of(page)):
        pkgutil.resolve_name(name)


def test_the_readme_is_short_and_leads_everywhere() -> None:
    assert 900 <= len(prose_of("README.md").split()) <= 1150
    assert text_of("README.md").count("![") == 1
    linked = {path for path, _ in _links("README.md")}
    assert "docs/graph.svg" in linked
    pages = {page for page in _NAMES if page.startswith("docs/") and not page.startswith("docs/_")}
    assert not pages - linked


@pytest.mark.parametrize("page", [page for page in _NAMES if page.startswith("docs/")])
def test_a_page_begins_with_its_title(page: str) -> None:
    assert re.match(r"# \S", text_of(page))


@pytest.mark.parametrize("package", ["exporter", "runtime"])
def test_the_architecture_page_has_every_package(package: str) -> None:
    section = text_of("docs/architecture.md").partition(f"\n`{package}`:\n")[2].lstrip("\n")
    table = section.partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == ORDER[package]


def test_the_glossary_defines_the_terms() -> None:
    titles = _anchors("docs/glossary.md")
    wanted = (
        "trunk branch template group routed-graph variant bundle drop adapter head fusion-member structure target precision"
    )
    assert titles >= {*wanted.split(), "parity", "drift", "initializer", "execution-provider", "opset"}
