"""The tokenizer of the bundled example's base model with a sixth of its vocabulary.

To read all 30,522 entries, and to write, hash and load their embeddings, takes longer than most tests that need some tokenizer.
The entries are in the order of their frequency, so that the first ones have all letters, digits and common words; their
ids are the same.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from exporter.example import base_model_folder

VOCABULARY = 5_000
# Of words in texts whose number of tokens matters; they take the places of the last of the 5,000.
_PIECES = (
    *("angela", "mer", "##kel", "lu", "##tz", "##ow", "##pl", "##atz", "premiere", "bo", "sings"),
    *("gorgeous", "battery", "weak", "stocks", "dull"),
)
_COPIED = ("tokenizer_config.json", "special_tokens_map.json")


@functools.cache
def tokenizer_files() -> Mapping[str, bytes]:
    """The files of the tokenizer: name -> content."""
    folder = base_model_folder()
    content = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary: dict[str, int] = content["model"]["vocab"]
    entries = [*sorted(vocabulary, key=lambda entry: vocabulary[entry])[: VOCABULARY - len(_PIECES)], *_PIECES]
    content["model"]["vocab"] = {entry: number for number, entry in enumerate(entries)}
    config = json.loads((folder / "config.json").read_bytes()) | {"vocab_size": VOCABULARY}
    return {name: (folder / name).read_bytes() for name in _COPIED} | {
        "tokenizer.json": json.dumps(content, ensure_ascii=False).encode(),
        "vocab.txt": "".join(f"{entry}\n" for entry in entries).encode(),
        "config.json": json.dumps(config).encode(),
    }
