"""The configuration files of a tokenizer in a bundle, and what the runtime reads from them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.errors import BundleError


@dataclass(frozen=True)
class TokenizerFiles:
    """Files in a bundle's folder that its manifest lists."""

    folder: Path
    listed: frozenset[str]
    read: Callable[[str], bytes]

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file; empty if the file is missing or not listed. Raises BundleError."""
        if name not in self.listed:
            return {}
        try:
            document = json.loads(self.read(name).decode("utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.folder / name}: expected UTF-8 JSON, found: {error}; export the bundle again") from error
        return document if isinstance(document, dict) else {}


def named_id(tokenizer: Tokenizer, sources: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Return the id of the first token called `name` in `sources` that is in the tokenizer's vocabulary."""
    for source in sources:
        token = source.get(name)  # a string, or an AddedToken as an object
        token_id = tokenizer.token_to_id(str(token.get("content") if isinstance(token, dict) else token)) if token else None
        if token_id is not None:
            return int(token_id)
    return None


def pad_id(tokenizer: Tokenizer, files: TokenizerFiles, sources: Sequence[Mapping[str, Any]]) -> int:
    """Return the padding id of transformers, else that of tokenizer.json, else that of the model's config.

    Without any of them the id is 0: the attention mask hides padding, so its id does not matter.
    """
    if (named := named_id(tokenizer, sources, "pad_token")) is not None:
        return named
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    found = files.json("config.json").get("pad_token_id")
    return found if type(found) is int and 0 <= found < 2**31 else 0


def glues_words(tokenizer: Tokenizer, config: Mapping[str, Any]) -> bool:
    """Whether words that are given one by one would be tokenized as if there were no space before them.

    So does a byte-level tokenizer that was saved with add_prefix_space=False, as those of RoBERTa and GPT-2 are by default;
    transformers 4 refuses words for them.
    """
    if config.get("add_prefix_space") is not False or tokenizer.pre_tokenizer is None:
        return False
    steps = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    return any(step.get("type") == "ByteLevel" and step.get("add_prefix_space") is False for step in steps)


def keeps_first_space(tokenizer: Tokenizer) -> bool:
    """Whether the post-processor counts the space before a token to it if it is the first one, and to no other token.

    So do byte-level tokenizers like that of RoBERTa. It is applied to each window of a text.
    """
    steps = [] if tokenizer.post_processor is None else _steps(tokenizer.post_processor, "processors")
    return any(
        step.get("type") in ("RobertaProcessing", "ByteLevel")
        and bool(step.get("trim_offsets") and step.get("add_prefix_space"))
        for step in steps
    )


def _steps(component: Any, sequence: str) -> list[dict[str, Any]]:
    """Return the settings of a component of a tokenizer, or of the components in a sequence of them."""
    state = json.loads(component.__getstate__())
    return [step for step in state.get(sequence, [state]) if isinstance(step, dict)]
