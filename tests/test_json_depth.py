"""JSON of others may be nested too deeply: every parser that catches invalid JSON catches that as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _parsers(path: Path) -> Iterator[tuple[int, set[str]]]:
    """Line of each try block that parses JSON, and the names of what it catches."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Try) and any("json.load" in ast.unparse(each) for each in node.body):
            caught = [ast.unparse(each.type) for each in node.handlers if each.type is not None]
            yield node.lineno, {name.strip("() ") for names in caught for name in names.split(",")}


def test_too_deep_json_is_caught_like_invalid_json() -> None:
    found = [
        (path, *each) for part in ("runtime", "exporter") for path in (ROOT / part).rglob("*.py") for each in _parsers(path)
    ]
    assert len(found) > 10
    wrong = [f"{path}:{line}" for path, line, names in found if not names & {"RecursionError", "Exception"}]
    assert not wrong, f"expected RecursionError next to ValueError: {', '.join(wrong)}"
