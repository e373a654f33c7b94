"""Comparison of the tokenizers that were saved with adapters with that of the base model: a graph has one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.checkpoints.files import read_json
from exporter.checkpoints.tokenizer import has_vocabulary
from exporter.errors import ExportError

_FAST, _WORDS = "tokenizer.json", "vocab.txt"


def common_folder(folders: Mapping[str, Path]) -> Path | None:
    """Return the first folder with a tokenizer, for a base model without one: training often saves it with the adapter.

    Args:
        folders: adapter name -> its folder.

    Raises:
        ExportError: two of these tokenizers have different vocabularies.
    """
    found = {name: folder for name, folder in folders.items() if has_vocabulary(folder)}
    first = next(iter(found), "")
    for name, folder in found.items():
        check_vocabulary(name, folder, found[first], f"the adapter {first!r}")
    return found.get(first)


def check_vocabulary(name: str, folder: Path, base: Path, owner: str = "the base model") -> None:
    """Check that an adapter was saved with the vocabulary of the base model, if both folders have one.

    Args:
        name: the adapter name, for the message.
        folder: the folder of the adapter.
        base: the folder of the base model, or of an adapter whose tokenizer is taken.
        owner: what has this folder, for the message.

    Raises:
        ExportError: the vocabularies differ: the graph would read the token ids of one as those of the other.
    """
    file = next((file for file in (_FAST, _WORDS) if (folder / file).is_file() and (base / file).is_file()), None)
    if file is None or (folder / file).read_bytes() == (base / file).read_bytes():
        return
    theirs, ours = _tokens(folder / file), _tokens(base / file)
    different = sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    if different:
        token = different[0]
        raise ExportError(
            f"the adapter {name!r} was saved with another tokenizer than that of {owner}: {token!r} has the id "
            f"{theirs.get(token)} in {str(folder / file)!r} and {ours.get(token)} in {str(base / file)!r}; tasks of one graph "
            "have one tokenizer: export the adapter with its own base model"
        )


def _tokens(path: Path) -> dict[str, Any]:
    """Token -> id."""
    if path.name == _WORDS:
        return {token: number for number, token in enumerate(path.read_text(encoding="utf-8").splitlines())}
    content = read_json(path)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # of Unigram, with scores
        vocabulary = {str(entry[0]): number for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    added = [token for token in content.get("added_tokens") or [] if isinstance(token, dict)]
    found = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    return {**found, **{str(token.get("content")): token.get("id") for token in added}}
