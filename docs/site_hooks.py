"""Hooks of mkdocs: pages and files from outside of docs, with links as they are in the repository, and the reference.

A link leads to the same file on the site as in the repository, so that each page is written once.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Path in the repository -> path on the site. README.md would be taken for the first page of its folder.
PAGES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "adapterdrop_example/README.md": "example.md",
}
REFERENCE = {"exporter": "The exporter in Python.", "runtime": "The runtime in Python."}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)


def site_path(path: str) -> str:
    """Return where a file of the repository is on the site; both are relative, with slashes."""
    return PAGES.get(path, path.removeprefix("docs/"))


def linked(page: str, text: str) -> Iterator[str]:
    """Yield the files of the repository that a page links to.

    Args:
        page: its path in the repository.
        text: its text.
    """
    for _, target, _ in _LINK.findall(_CODE.sub("", text)):
        if ":" not in target:
            yield os.path.normpath(Path(page).parent / target).replace(os.sep, "/")


def with_links_of_the_site(page: str, text: str) -> str:
    """Return the text of a page with links that lead to the same files on the site.

    Args:
        page: its path in the repository.
        text: its text; what is in code stays as it is.
    """

    def replaced(match: re.Match[str]) -> str:
        (target,) = [*linked(page, match[0])] or [""]
        if not target:
            return match[0]
        link = os.path.relpath(site_path(target), Path(site_path(page)).parent).replace(os.sep, "/")
        return f"{match[1]}{link}{match[3]}"

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(replaced, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(replaced, text[end:])])


def reference(package: str) -> str:
    """Return the page about a package: its public names, whose docstrings mkdocstrings inserts."""
    module = importlib.import_module(package)
    names = sorted(module.__all__, key=lambda name: (name[0].isupper(), name))
    # The heading is the name that users import, not that of the module in which it is defined
    objects = [
        f"::: {package}.{module._HOMES[name]}.{name}\n    options:\n      heading: {package}.{name}\n      toc_label: {name}\n"
        for name in names
    ]
    return "\n".join([f"# {package}\n", f"{REFERENCE[package]}\n", *objects])


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files from outside of docs; a hook of mkdocs."""
    from mkdocs.structure.files import File

    pages = {path.relative_to(ROOT).as_posix(): path for path in [*(ROOT / "docs").glob("*.md"), *map(ROOT.joinpath, PAGES)]}
    for page in PAGES:
        files.append(File.generated(config, site_path(page), abs_src_path=str(ROOT / page)))
    others = {target for page, path in pages.items() for target in linked(page, path.read_text(encoding="utf-8"))}
    for target in sorted(others - pages.keys()):
        if not target.startswith("docs/") and (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    for package in REFERENCE:
        files.append(File.generated(config, f"reference/{package}.md", content=reference(package)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page; a hook of mkdocs."""
    home = {site: path for path, site in PAGES.items()}
    uri = page.file.src_uri
    return markdown if uri.startswith("reference/") else with_links_of_the_site(home.get(uri, f"docs/{uri}"), markdown)
