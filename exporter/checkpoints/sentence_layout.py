"""The layout of folders of sentence-transformers: `modules.json` lists the modules and their subfolders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["MODULE_FOLDER", "SENTENCE_MODULES", "encoder_of", "is_module_of", "module_folders"]

# The list of modules.
SENTENCE_MODULES = "modules.json"
# A folder in the folder, which no ".." leaves.
MODULE_FOLDER = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")


def module_folders(folder: Path) -> list[str]:
    """Return the subfolders of the modules, in order; empty without a list, or with a damaged one, which is reported later."""
    content = _content(folder)
    paths = [each.get("path") for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    return [path for path in paths if isinstance(path, str) and MODULE_FOLDER.fullmatch(path)]


def encoder_of(folder: Path) -> Path:
    """Return the folder of the text encoder: the folder itself, or, as versions before 2 wrote it, the first module's."""
    if not (folder / "config.json").is_file():
        for path in module_folders(folder)[:1]:
            if (folder / path / "config.json").is_file():
                return folder / path
    return folder


def is_module_of(folder: Path, name: str) -> bool:
    """Return whether a subfolder contains a module of a folder of sentence-transformers; True if the list is damaged."""
    content = _content(folder)
    if content is None:
        return False
    if not isinstance(content, list) or not content:
        return True
    return any(isinstance(each, dict) and each.get("path") == name for each in content)


def _content(folder: Path) -> Any:
    """The content of the list; None without one, and empty for one that is not JSON."""
    path = folder / SENTENCE_MODULES
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
