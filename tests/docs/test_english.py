"""The pages and the source use the words of the field: phrases that a reader stumbles over are not in them."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.pages import PAGES, ROOT, name_of

# What is written -> what to write instead. Case does not count.
PHRASES = {
    r"\balone\b": "only, or: by itself",
    r"\bbeside\b": "next to, in addition to",
    r"\b(is|was) (?-i:none)\b": "is not, there is no",
    r"\bnone of (ours|theirs)\b": "unknown, not ours",
    r"\bof (its|their|his|her) own\b": "its own …, a separate …",
    r"\bfor ever\b": "forever, without a limit",
    r"\bat the (least|most)\b": "at least, at most",
    r"(^|[,(;:.] )say,? (?!\")": "such as, for example",
    r"\b(some|no|any)body\b": "the passive, or who it is",
    r"\bcure[sd]?\b": "patch",
    r"\bforetell|\bforetold\b": "predict",
    r"\banswers? otherwise\b": "predictions differ",
    r"\b(its|their|in|any) company\b": "the other texts in the batch",
    r"\bmade[- ]up weights\b": "randomly initialised weights",
    r"\ba question of\b|\basks? (it|them|(the|an?) [\w ]+?) a question\b": "run inference",
    r"\brows choose\b|\brows that choose\b": "each row selects",
    r"(^|[.;:] )of which\b": "a sentence with a subject",
    r"\b(graph|model|tensor|value|node|pass|option|file|run|text|weight|target)(e?s)? (asks?|tells?|notices?)\b": (
        "a verb that a thing can do"
    ),
}
CLEAN = ("docs", "runtime", "exporter", "benchmarks", "training", "tests")
# Pages that are written elsewhere, each with the place.
ELSEWHERE = {
    "docs/support.md": "generated: the introduction is in tests/helpers/support_table.py, refusals in the source",
}
# (file, the words around the phrase) -> why they stay.
ALLOWED = {
    ("docs/routing.md", "one task, exported alone"): "the label of a row in the raw results",
    ("benchmarks/routed.py", "one task, exported alone"): "the same",
    ("tests/benchmarks/test_benchmarks.py", "one task, exported alone"): "the same",
    ("tests/exporter/test_example.py", "sloping land beside a body of water"): "a definition of WordNet",
    ("docs/runtime.md", "sloping land beside a body of water"): "a definition of WordNet, as the example's task takes it",
}


@functools.lru_cache(maxsize=1)
def _nodes(text: str) -> tuple[ast.AST, ...]:
    """The nodes of a source file, for the checks that follow each other on one file."""
    return tuple(ast.walk(ast.parse(text)))


def _texts_of_source(text: str) -> Iterator[tuple[int, str]]:
    """The comments, docstrings, messages and names of tests of a source file, each with its first line."""
    first, comment = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] != first + comment.count("\n") + 1:
                yield first, comment
                comment = ""
            first = first if comment else token.start[0]
            comment = f"{comment}\n{token.string[1:]}" if comment else token.string[1:]
    yield first, comment
    for node in _nodes(text):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            # To leave something alone is an idiom.
            yield node.lineno, re.sub(r"\b(leaves?|left)\b(.*)\balone\b", r"\1\2", node.name.replace("_", " "))


def found_in(path: Path) -> list[str]:
    """Every place in a file with a phrase of the list that is not allowed there."""
    name, text, found = name_of(path), path.read_text(encoding="utf-8"), []
    for words in (words for file, words in ALLOWED if file == name):
        text = text.replace(words, "")
    parts = list(_texts_of_source(text)) if path.suffix == ".py" else [(1, text)]
    whole = "\n\0\n".join(part for _, part in parts)  # most files have no phrase in any part
    for phrase, instead in PHRASES.items():
        # A phrase may run over the end of a line.
        pattern = re.compile(phrase.replace(" ", r"\s+"), flags=re.IGNORECASE | re.MULTILINE)
        for first, part in parts if pattern.search(whole) else []:
            for match in pattern.finditer(part):
                line = first + part.count("\n", 0, match.start())
                found.append(f"{name}:{line}: {' '.join(match[0].split())!r}; write: {instead}")
    return found


def what_is_docstrings(path: Path) -> list[str]:
    """Docstrings of the form "What X is" in place of the thing itself."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in _nodes(path.read_text(encoding="utf-8")) if isinstance(node, kinds)]
    openings = ((node, (ast.get_docstring(node) or "").split(" ")[0]) for node in nodes)
    return [f"{name_of(path)}:{getattr(node, 'lineno', 1)}" for node, word in openings if word == "What"]


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in ELSEWHERE], ids=name_of)
def test_pages_are_plain(page: Path) -> None:
    assert not found_in(page)


@pytest.mark.parametrize("directory", CLEAN)
def test_source_is_plain(directory: str) -> None:
    files = sorted(path for path in (ROOT / directory).rglob("*.py") if path != Path(__file__))
    assert files
    assert not [each for path in files for each in (*found_in(path), *what_is_docstrings(path))]


@pytest.mark.parametrize("file", ["Makefile", "pyproject.toml"])
def test_comments_of_the_project_are_plain(file: str) -> None:
    assert not found_in(ROOT / file)


def test_names_of_tests_are_short() -> None:
    names = [name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))]
    assert len(names) > 1000
    assert not [name for name in names if len(name) >= 60]


def test_exceptions_are_needed() -> None:
    for (file, words), reason in ALLOWED.items():
        assert reason
        assert words in (ROOT / file).read_text(encoding="utf-8")
    assert {name_of(page) for page in PAGES} >= set(ELSEWHERE)
