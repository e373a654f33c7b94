"""Encoding of texts into padded batches: tokenize, truncate, group by length, pad.

Ids, masks and token types are identical to those of transformers' `AutoTokenizer(text, pair, padding=True, truncation=…)` for
the same folder.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from runtime.bundle import TOKENIZER, InputEntry, Manifest
from runtime.bundle.entries import BATCH, SEQUENCE
from runtime.errors import AdapterDropError, BundleError, InputError
from runtime.text.bucketing import split
from runtime.text.limits import check_characters, portions
from runtime.text.tokenizer_errors import probe, tokenizer_errors
from runtime.text.tokens import Tokens

TEXT_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")  # inputs that are computed from texts

Text: TypeAlias = str | Sequence[str]  # a text, or a pair as a tuple or list of exactly two strings


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch, and the cost of a call.

    Attributes:
        rows: maximum number of rows.
        tokens: maximum number of tokens, including padding.
        call: cost of one call, in tokens.
    """

    rows: int
    tokens: int
    call: int


# Measured on the bundled example, see docs/runtime.md: on a CPU, larger batches are not faster and a call is cheap. The values
# for a GPU, which processes many tokens in the time of a few, are estimates.
CPU_LIMITS: Final = BatchLimits(rows=64, tokens=1024, call=24)
GPU_LIMITS: Final = BatchLimits(rows=256, tokens=16384, call=1024)


@dataclass(frozen=True)
class Batch:
    """A batch of texts of similar length.

    Attributes:
        rows: indices of the texts in the caller's list.
        feeds: inputs of the graph. Inputs for texts are int64 [rows, longest row], or larger if the batch was padded to a
            given shape; additional rows repeat the last one.
    """

    rows: tuple[int, ...]
    feeds: dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with its padding and truncation rules. Immutable after `load`, and thread-safe.

    Attributes:
        tokenizer: tokenizer of the tokenizers library.
        manifest: manifest of the bundle.
        pad_id: id of the padding token.
        mask_id: id of the mask token; None if the tokenizer's configuration does not name one.
        pad_left: pad on the left instead of the right.
        cut_left: truncate on the left instead of the right.
    """

    tokenizer: Tokenizer
    manifest: Manifest
    pad_id: int
    mask_id: int | None
    pad_left: bool
    cut_left: bool

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, read: Callable[[str], bytes] | None = None) -> "TextEncoder":
        """Load the tokenizer of a bundle. Files that the manifest does not list are not read, because their hash is unknown.

        Args:
            folder: folder of the bundle.
            manifest: manifest of the bundle.
            read: function from the name of a file to its bytes; None reads the files in `folder`.

        Raises:
            BundleError: tokenizer.json or one of the tokenizer's configuration files cannot be read, or the tokenizer fails on
                simple texts.
        """
        files = _Files(folder, frozenset(manifest.files), read or (lambda name: (folder / name).read_bytes()))
        with tokenizer_errors(BundleError, f"{folder / TOKENIZER}: not a tokenizer", "export the bundle again"):
            tokenizer = Tokenizer.from_buffer(files.read(TOKENIZER))
        config = files.json("tokenizer_config.json")
        sources = (config, files.json("special_tokens_map.json"))
        with tokenizer_errors(BundleError, f"{folder / TOKENIZER}: the tokenizer does not work", "export the bundle again"):
            pad_id = _pad_id(tokenizer, files, sources)
            # tokenizer.json may store the padding and truncation of the training (such as a fixed 128 tokens), which
            # transformers does not apply
            tokenizer.no_padding()
            tokenizer.no_truncation()
            mask_id = _named_id(tokenizer, sources, "mask_token")
            probe(tokenizer)
        left = ("padding_side", "truncation_side")
        return cls(tokenizer, manifest, pad_id, mask_id, *(config.get(side) == "left" for side in left))

    def encode(self, texts: Sequence[Text], truncate: bool = False) -> list[Tokens]:
        """Tokenize texts.

        Args:
            texts: list of texts and pairs of texts.
            truncate: truncate texts that exceed the model's maximum.

        Returns:
            Tokens of each text, including special tokens, at most the model's maximum.

        Raises:
            InputError: `texts` is not a list of texts and pairs, it is empty, a text has more tokens than the model's maximum
                and `truncate` is false, a text has more characters than `longest_text` allows, or the tokenizer fails.
        """
        pairs = _checked(texts)
        limit = self.manifest.max_lengths.get(SEQUENCE)
        check_characters(pairs, limit, truncate)
        rows: list[Tokens] = []
        long: list[tuple[int, int]] = []  # index and tokens of texts that are too long
        count = 0
        for portion in portions(pairs):
            for encoding in self._encode(portion):
                if limit is not None and len(encoding) > limit and not truncate:
                    long.append((count, len(encoding)))
                elif not long:
                    # Not Tokenizer.enable_truncation: it changes the tokenizer, which other threads use, and it creates an
                    # encoding for every combination of overflowing pieces, which takes gigabytes for a pair of long texts.
                    row = Tokens.of(encoding)
                    rows.append(row if limit is None else row.cut(limit, self.cut_left))
                count += 1
        if long:
            found = ", ".join(f"texts[{index}] has {length}" for index, length in long[:10])
            more = f" and {len(long) - 10} more" if len(long) > 10 else ""
            raise InputError(
                f"expected at most {limit} tokens in a text, found: {found}{more}; pass truncate=True to truncate them"
            )
        return rows

    def _encode(self, pairs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        what = f"{TOKENIZER}: the tokenizer failed on one of the texts"
        with tokenizer_errors(InputError, what, "change the text, or tokenize it in your code and call run()"):
            return list(self.tokenizer.encode_batch(pairs))

    def batches(
        self, rows: Sequence[Tokens], limits: BatchLimits, size: int | None = None, shapes: Sequence[tuple[int, int]] = ()
    ) -> Iterator[Batch]:
        """Yield batches with the lowest cost of padding and calls, shortest texts first.

        Args:
            rows: tokens of each text.
            limits: limits of a batch.
            size: maximum number of rows, instead of `limits.rows`.
            shapes: shapes (rows, tokens); a batch is padded to the smallest one that holds it, if there is one.
        """
        most = limits.rows if size is None else size
        for chosen in split([len(row) for row in rows], most, limits.tokens, limits.call):
            yield Batch(tuple(chosen), self._pad([rows[index] for index in chosen], shapes))

    def _pad(self, rows: Sequence[Tokens], shapes: Sequence[tuple[int, int]]) -> dict[str, npt.NDArray[np.int64]]:
        # at least one token: without special tokens, an empty text has no tokens
        shape = (len(rows), max(1, *(len(row) for row in rows)))
        fitting = [wider for wider in shapes if wider[0] >= shape[0] and wider[1] >= shape[1]]
        shape = min(fitting, key=lambda wider: wider[0] * wider[1], default=shape)
        rows = [*rows, *[rows[-1]] * (shape[0] - len(rows))]
        feeds = {entry.name: _blank(entry, {BATCH: shape[0], SEQUENCE: shape[1]}) for entry in self.manifest.inputs}
        feeds["input_ids"].fill(self.pad_id)
        for index, row in enumerate(rows):
            columns = slice(start := self.offset(row, shape[1]), start + len(row))
            feeds["input_ids"][index, columns] = row.ids
            if "attention_mask" in feeds:
                feeds["attention_mask"][index, columns] = 1
            if "token_type_ids" in feeds:
                feeds["token_type_ids"][index, columns] = row.type_ids
        return feeds

    def token_text(self, token_id: int) -> str:
        """Return the text of a token without surrounding spaces; "token ID" for an id outside the tokenizer's vocabulary."""
        with tokenizer_errors(AdapterDropError, f"{TOKENIZER}: token {token_id} cannot be decoded", "export the bundle again"):
            text = self.tokenizer.decode([token_id], skip_special_tokens=False).strip()
            return text or self.tokenizer.id_to_token(token_id) or f"token {token_id}"

    def offset(self, row: Tokens, width: int) -> int:
        """Return the column of the row's first token in a batch of `width` tokens."""
        return width - len(row) if self.pad_left else 0


def _blank(entry: InputEntry, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return the initial array of an input: zeros, or ones for the mask of a decoder, so that no row is empty.

    An axis other than batch and sequence has length 1, as in a decoder whose output is not requested.
    """
    shape = [int(axis) if axis.isdecimal() else sizes.get(axis, 1) for axis in entry.shape]
    return (np.ones if entry.name == "decoder_attention_mask" else np.zeros)(shape, np.int64)


def _checked(texts: Sequence[Text]) -> list[str | tuple[str, str]]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise InputError(f"texts: expected a list of texts, found {type(texts).__name__}; pass [text]")
    if not texts:
        raise InputError("texts: expected at least one text, found an empty list")
    problems = []
    for index, text in enumerate(texts):
        parts = [text] if isinstance(text, str) else text
        if not (isinstance(parts, tuple | list) and len(parts) == (1 if isinstance(text, str) else 2)):
            problems.append(f"texts[{index}]: expected a str or a pair (str, str), found {_shown(text)}")
        elif not all(isinstance(part, str) for part in parts):
            problems.append(f"texts[{index}]: expected a pair of str, found {_shown(text)}")
        elif any(map(_has_surrogate, parts)):
            problems.append(f"texts[{index}]: expected text, found a lone surrogate; was it decoded with the right encoding?")
    if problems:
        raise InputError("; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else ""))
    return [text if isinstance(text, str) else (text[0], text[1]) for text in texts]


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: ({', '.join(type(part).__name__ for part in value[:4])})"
    return type(value).__name__


def _named_id(tokenizer: Tokenizer, sources: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Return the id of the first token called `name` in `sources` that is in the tokenizer's vocabulary."""
    for source in sources:
        token = source.get(name)  # a string, or an AddedToken as an object
        token_id = tokenizer.token_to_id(str(token.get("content") if isinstance(token, dict) else token)) if token else None
        if token_id is not None:
            return int(token_id)
    return None


def _pad_id(tokenizer: Tokenizer, files: "_Files", sources: Sequence[Mapping[str, Any]]) -> int:
    """Return the padding id of transformers, else that of tokenizer.json, else that of the model's config.

    Without any of them the id is 0: the attention mask hides padding, so its id does not matter.
    """
    if (named := _named_id(tokenizer, sources, "pad_token")) is not None:
        return named
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    pad_id = files.json("config.json").get("pad_token_id")
    return pad_id if type(pad_id) is int and 0 <= pad_id < 2**31 else 0


@dataclass(frozen=True)
class _Files:
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
