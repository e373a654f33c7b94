"""Texts -> padded rows: tokenize, cut if allowed, group by length, pad. Ids, masks and token types are exactly those of
transformers' `AutoTokenizer(text, pair, padding=True, truncation=…)` for the same folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from runtime.bundle import TOKENIZER, InputEntry, Manifest
from runtime.bundle.entries import BATCH, SEQUENCE
from runtime.errors import BundleError, InputError
from runtime.text.bucketing import split

TEXT_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")  # what a text fills

Text: TypeAlias = str | Sequence[str]  # a text, or a tuple or list of exactly two


@dataclass(frozen=True)
class BatchLimits:
    """`rows` and `tokens` (padding included) that a batch has at most, and `call`: the cost of one more call, in tokens."""

    rows: int
    tokens: int
    call: int


# Measured on the bundled example, docs/runtime.md: a CPU gains nothing from more tokens at once, and a call costs it little.
# A GPU, which runs many tokens in the time of few, was not measured.
CPU_LIMITS: Final = BatchLimits(rows=64, tokens=1024, call=24)
GPU_LIMITS: Final = BatchLimits(rows=256, tokens=16384, call=1024)


@dataclass(frozen=True)
class Batch:
    """Rows of similar length: `rows` are their indices among the caller's texts, `feeds` what the graph takes, with texts as
    int64 [rows, longest row], or larger where the batch was padded to a given shape; surplus rows repeat the last one."""

    rows: tuple[int, ...]
    feeds: dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text or pair, special tokens included: lists of equal length.

    `parts`: 0 or 1 for a token of the first or second text, None for a special token; `words`: index of the token's word in its
    part, or None; `offsets`: (start, end) in characters of its part.
    """

    ids: list[int]
    type_ids: list[int]
    parts: list[int | None]
    words: list[int | None]
    offsets: list[tuple[int, int]]

    @classmethod
    def of(cls, encoding: Encoding) -> "Tokens":
        return cls(encoding.ids, encoding.type_ids, encoding.sequence_ids, encoding.word_ids, encoding.offsets)

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, limit: int, left: bool) -> "Tokens":
        """At most `limit` tokens, taken from the end (or the start, if `left`) of the longer part first, no special token."""
        if len(self) <= limit:
            return self
        places = [[place for place, part in enumerate(self.parts) if part == which] for which in (0, 1)]
        special = [place for place, part in enumerate(self.parts) if part is None]
        lengths = _longest_first([len(part) for part in places], max(0, limit - len(special)))
        kept = [part[len(part) - length :] if left else part[:length] for part, length in zip(places, lengths, strict=True)]
        order = sorted([*special, *kept[0], *kept[1]])
        columns = (self.ids, self.type_ids, self.parts, self.words, self.offsets)
        return Tokens(*([column[place] for place in order] for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with its padding rules. Nothing changes after `load`, so that threads may share it.

    `mask_id`: the id of the mask token, None where the files beside the tokenizer name none.
    """

    tokenizer: Tokenizer
    manifest: Manifest
    pad_id: int
    mask_id: int | None
    pad_left: bool
    cut_left: bool

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> "TextEncoder":
        """Raises BundleError where tokenizer.json or a configuration beside it cannot be read."""
        try:
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"{folder / TOKENIZER}: not a tokenizer: {error}; export the bundle again") from error
        config = _read_json(folder / "tokenizer_config.json")
        sources = (config, _read_json(folder / "special_tokens_map.json"))
        pad_id = _pad_id(tokenizer, folder, sources)
        # What training left behind here (say, 128 tokens always) is not what transformers does when called
        tokenizer.no_padding()
        tokenizer.no_truncation()
        left = ("padding_side", "truncation_side")
        mask_id = _named_id(tokenizer, sources, "mask_token")
        return cls(tokenizer, manifest, pad_id, mask_id, *(config.get(side) == "left" for side in left))

    def encode(self, texts: Sequence[Text], truncate: bool = False) -> list[Tokens]:
        """The tokens of each text, special tokens included, none longer than the model takes.

        Raises:
            InputError: `texts` is no list of texts and pairs, it is empty, or a text is too long and `truncate` is false.
        """
        pairs = _checked(texts)
        encodings: list[Encoding] = self.tokenizer.encode_batch(pairs)
        limit = self.manifest.max_lengths.get(SEQUENCE)
        if limit is None:
            return [Tokens.of(encoding) for encoding in encodings]
        long = [index for index, encoding in enumerate(encodings) if len(encoding) > limit]
        if long and not truncate:
            found = ", ".join(f"texts[{index}] has {len(encodings[index])}" for index in long[:10])
            more = f" and {len(long) - 10} more" if len(long) > 10 else ""
            raise InputError(f"expected at most {limit} tokens in a text, found: {found}{more}; truncate=True cuts them")
        # Not Tokenizer.enable_truncation: that would change the tokenizer under the feet of other threads, and it makes a row
        # of every combination of cut-off pieces, which takes gigabytes for two long texts.
        return [Tokens.of(encoding).cut(limit, self.cut_left) for encoding in encodings]

    def batches(
        self, rows: Sequence[Tokens], limits: BatchLimits, size: int | None = None, shapes: Sequence[tuple[int, int]] = ()
    ) -> Iterator[Batch]:
        """Batches of at most `size` rows (None = as `limits` says), shortest first, split so that padding and calls together
        cost least. A batch is padded to the smallest of `shapes` (rows, tokens) that holds it, where one does."""
        most = limits.rows if size is None else size
        for chosen in split([len(row) for row in rows], most, limits.tokens, limits.call):
            yield Batch(tuple(chosen), self._pad([rows[index] for index in chosen], shapes))

    def _pad(self, rows: Sequence[Tokens], shapes: Sequence[tuple[int, int]]) -> dict[str, npt.NDArray[np.int64]]:
        # at least one token: a tokenizer without special tokens makes none of an empty text
        shape = (len(rows), max(1, *(len(row) for row in rows)))
        fitting = [wider for wider in shapes if wider[0] >= shape[0] and wider[1] >= shape[1]]
        shape = min(fitting, key=lambda wider: wider[0] * wider[1], default=shape)
        rows = [*rows, *[rows[-1]] * (shape[0] - len(rows))]
        feeds = {entry.name: _blank(entry, {BATCH: shape[0], SEQUENCE: shape[1]}) for entry in self.manifest.inputs}
        feeds["input_ids"].fill(self.pad_id)
        for index, row in enumerate(rows):
            place = slice(start := self.offset(row, shape[1]), start + len(row))
            feeds["input_ids"][index, place] = row.ids
            if "attention_mask" in feeds:
                feeds["attention_mask"][index, place] = 1
            if "token_type_ids" in feeds:
                feeds["token_type_ids"][index, place] = row.type_ids
        return feeds

    def token_text(self, token_id: int) -> str:
        """A token as people read it, without the spaces around it; its id in words where the tokenizer does not know it."""
        text = self.tokenizer.decode([token_id], skip_special_tokens=False).strip()
        return text or self.tokenizer.id_to_token(token_id) or f"token {token_id}"

    def offset(self, row: Tokens, width: int) -> int:
        """Column of the row's first token in a batch that is `width` tokens wide."""
        return width - len(row) if self.pad_left else 0


def _blank(entry: InputEntry, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """An input that texts do not fill, or not yet: zeros, one column where its axis has another name, as in a decoder whose
    output nobody asked for. Masks of such inputs are all ones, so that no row is empty."""
    shape = [int(axis) if axis.isdecimal() else sizes.get(axis, 1) for axis in entry.shape]
    return (np.ones if entry.name == "decoder_attention_mask" else np.zeros)(shape, np.int64)


def _longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """Lengths to which two texts are cut to fit into `room` tokens together: the longer one first, and both to half the room
    where that is not enough, as the strategy "longest_first" of tokenizers does it."""
    short, long = sorted(lengths)
    if short + long > room:
        long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


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
        elif any("\ud800" <= character <= "\udfff" for part in parts if not part.isascii() for character in part):
            problems.append(f"texts[{index}]: expected text, found a lone surrogate; was it decoded with the right encoding?")
    if problems:
        raise InputError("; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else ""))
    return [text if isinstance(text, str) else (text[0], text[1]) for text in texts]


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: ({', '.join(type(part).__name__ for part in value[:4])})"
    return type(value).__name__


def _named_id(tokenizer: Tokenizer, sources: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """The id of a special token that one of `sources` names; the first one that the tokenizer knows."""
    for source in sources:
        token = source.get(name)  # a string, or an AddedToken as an object
        token_id = tokenizer.token_to_id(str(token.get("content") if isinstance(token, dict) else token)) if token else None
        if token_id is not None:
            return int(token_id)
    return None


def _pad_id(tokenizer: Tokenizer, folder: Path, sources: Sequence[Mapping[str, Any]]) -> int:
    """The id that transformers pads with, then what tokenizer.json stores, then what the model's config says. Without any
    of them 0: the attention mask hides padding, whatever its id."""
    if (named := _named_id(tokenizer, sources, "pad_token")) is not None:
        return named
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    pad_id = _read_json(folder / "config.json").get("pad_token_id")
    return pad_id if isinstance(pad_id, int) else 0


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: expected UTF-8 JSON, found: {error}; export the bundle again") from error
    return document if isinstance(document, dict) else {}
