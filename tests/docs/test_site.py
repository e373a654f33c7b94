"""The site: every page has a place, and links lead to the same files as in the repository. `make docs` builds it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.lock_files import ROOT
from tests.helpers.pages import PAGES, name_of, text_of

_spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
assert _spec is not None
assert _spec.loader is not None
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)


class _Settings(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Without the function that makes anchors."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings)  # noqa: S506 - a safe loader
    return found


def _places(entries: list[Any]) -> list[str]:
    found = []
    for entry in entries:
        (value,) = entry.values()
        found += [value] if isinstance(value, str) else _places(value)
    return found


def test_every_page_has_one_place() -> None:
    places = _places(_settings()["nav"])
    assert len(set(places)) == len(places)
    pages = {hooks.site_path(name_of(page)) for page in PAGES}
    assert set(places) == pages | {f"reference/{package}.md" for package in hooks.REFERENCE}


def test_faults_of_the_site_are_errors() -> None:
    settings = _settings()
    assert settings["strict"] is True
    assert set(settings["validation"].values()) == {"warn"}  # each warning is an error then
    assert settings["theme"]["font"] is False  # readers make no request to another host


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/runtime.md", "[a](../SECURITY.md#b)", "[a](security.md#b)"),
        ("docs/runtime.md", "[a](export.md), ![b](graph.svg)", "[a](export.md), ![b](graph.svg)"),
        ("README.md", "[a](docs/hub.md) [b](CONTRIBUTING.md#c) [d](#e)", "[a](hub.md) [b](contributing.md#c) [d](#e)"),
        ("docs/peft.md", "[a](../benchmarks/results/x.jsonl)", "[a](benchmarks/results/x.jsonl)"),
        ("docs/peft.md", "[a](https://example.org/docs/x.md)", "[a](https://example.org/docs/x.md)"),
        ("docs/peft.md", "`[a](../README.md)`\n\n```sh\n[a](../README.md)\n```\n", None),
        ("adapterdrop_example/README.md", "[a](../docs/export.md)", "[a](export.md)"),
    ],
)
def test_links_lead_to_the_same_files(page: str, text: str, expected: str | None) -> None:
    assert hooks.with_links_of_the_site(page, text) == (text if expected is None else expected)


@pytest.mark.parametrize("page", [name_of(page) for page in PAGES])
def test_every_link_has_a_file_on_the_site(page: str) -> None:
    for target in hooks.linked(page, text_of(page)):
        assert (ROOT / target).is_file() or (ROOT / target).is_dir(), target
        is_page = Path(target).suffix == ".md"
        assert not is_page or hooks.site_path(target) in _places(_settings()["nav"]), target


@pytest.mark.parametrize("package", ["exporter", "runtime"])
def test_the_reference_has_every_public_name(package: str) -> None:
    module = importlib.import_module(package)
    objects = re.findall(r"^::: (\S+)$", hooks.reference(package), flags=re.MULTILINE)
    assert sorted(each.rpartition(".")[2] for each in objects) == sorted(module.__all__)
    for each in objects:
        home, _, name = each.rpartition(".")
        assert getattr(importlib.import_module(home), name) is getattr(module, name)
        assert getattr(module, name).__doc__ or name == "Hook"  # an alias of a type, described below its value
