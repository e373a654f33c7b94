"""Encoding of texts into padded batches: tokenize, truncate, group by length, pad.

Ids, masks and token types are identical to those of transformers' `AutoTokenizer(text, pair, padding=True, truncation=…)` for
the same folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from runtime.bundle import TOKENIZER, InputEntry, Manifest
from runtime.bundle.interface import BATCH, SEQUENCE
from runtime.errors import AdapterDropError, BundleError, InputError
from runtime.text.bucketing import split
from runtime.text.limits import check_characters, check_normalized, portions
from runtime.text.texts import Checked, Text, Words, check_texts, check_words
from runtime.text.tokenizer_bounds import excesses, loaded_excesses, normalizer_growth
from runtime.text.tokenizer_errors import probe, tokenizer_errors
from runtime.text.tokenizer_files import TokenizerFiles, glues_words, keeps_first_space, named_id, pad_id
from runtime.text.tokens import Tokens

_FAILED: Final = f"{TOKENIZER}: the tokenizer failed on one of the texts"
_REMEDY: Final = "change the text, or tokenize it in your code and call run()"
TEXT_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")  # inputs that are computed from texts


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
# Providers that compute on a GPU
GPUS: Final = frozenset(("cuda", "tensorrt", "tensorrt-rtx", "webgpu", "dml", "migraphx", "rocm"))


def batch_limits(provider: str) -> BatchLimits:
    """Return the limits of batches on a provider, by its name for users."""
    return GPU_LIMITS if provider in GPUS else CPU_LIMITS


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
        unk_id: id of the token for what is not in the vocabulary; None if the tokenizer's configuration does not name one.
        cls_id: id of the classification token; None as for `unk_id`.
        glues_words: words would be tokenized without spaces between them, see `tokenizer_files.glues_words`.
        keeps_first_space: see `tokenizer_files.keeps_first_space`.
        growth: the most characters that the normalizer makes of one.
    """

    tokenizer: Tokenizer
    manifest: Manifest
    pad_id: int
    mask_id: int | None
    pad_left: bool
    cut_left: bool
    unk_id: int | None = None
    cls_id: int | None = None
    glues_words: bool = False
    keeps_first_space: bool = False
    growth: float = 1.0

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, read: Callable[[str], bytes] | None = None) -> "TextEncoder":
        """Load the tokenizer of a bundle. Files that the manifest does not list are not read, because their hash is unknown.

        Args:
            folder: folder of the bundle.
            manifest: manifest of the bundle.
            read: function from the name of a file to its bytes; None reads the files in `folder`.

        Raises:
            BundleError: tokenizer.json or one of the tokenizer's configuration files cannot be read, the tokenizer could take
                hours or gigabytes for a text (see `tokenizer_bounds`), or it fails on simple texts.
        """
        files = TokenizerFiles(folder, frozenset(manifest.files), read or (lambda name: (folder / name).read_bytes()))
        with tokenizer_errors(BundleError, f"{folder / TOKENIZER}: not a tokenizer", "export the bundle again"):
            content = files.read(TOKENIZER)
            _refuse(folder, excesses(content))
            tokenizer = Tokenizer.from_buffer(content)
            _refuse(folder, loaded_excesses(tokenizer))
        config = files.json("tokenizer_config.json")
        sources = (config, files.json("special_tokens_map.json"))
        with tokenizer_errors(BundleError, f"{folder / TOKENIZER}: the tokenizer does not work", "export the bundle again"):
            padding = pad_id(tokenizer, files, sources)
            # tokenizer.json may store the padding and truncation of the training (such as a fixed 128 tokens), which
            # transformers does not apply
            tokenizer.no_padding()
            tokenizer.no_truncation()
            # tokenizer.json does not store that "[SEP]" in a text is text, and no special token
            tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
            names = ("mask_token", "unk_token", "cls_token")
            mask_id, unk_id, cls_id = (named_id(tokenizer, sources, name) for name in names)
            probe(tokenizer)
            glued, keeps_space = glues_words(tokenizer, config), keeps_first_space(tokenizer)
            growth = normalizer_growth(tokenizer)
        left, cut_left = (config.get(side) == "left" for side in ("padding_side", "truncation_side"))
        return cls(tokenizer, manifest, padding, mask_id, left, cut_left, unk_id, cls_id, glued, keeps_space, growth)

    @property
    def limit(self) -> int | None:
        """Maximum number of tokens of a text, including special tokens; None without a maximum."""
        return self.manifest.max_lengths.get(SEQUENCE)

    def encode(
        self,
        texts: Sequence[Text],
        truncate: bool = False,
        *,
        overflow: bool = False,
        is_split_into_words: bool = False,
        remedy: str = "pass truncate=True to truncate them",
    ) -> list[Tokens]:
        """Tokenize texts.

        Args:
            texts: list of texts and pairs of texts, or of lists of words.
            truncate: truncate texts that exceed the model's maximum.
            overflow: return all tokens of longer texts.
            is_split_into_words: each text is a list of words. The offsets are those in the words joined by spaces.
            remedy: what to do about texts that are too long, the end of the message.

        Returns:
            Tokens of each text, including special tokens; without `overflow`, at most the model's maximum.

        Raises:
            InputError: `texts` is not a list of texts and pairs (of lists of words), it is empty, a text has more tokens than
                the model's maximum and neither `truncate` nor `overflow` is set, a text has more characters than `longest_text`
                allows, the tokenizer has no spaces for words, or the tokenizer fails.
        """
        if is_split_into_words and self.glues_words:
            raise InputError(
                f"is_split_into_words: {TOKENIZER} was saved with add_prefix_space=False, so that it would join the words; "
                "load the tokenizer with add_prefix_space=True and export again, or pass texts"
            )
        pairs = check_words(texts) if is_split_into_words else check_texts(texts)
        limit = None if overflow else self.limit
        check_characters(pairs, self.limit, truncate or overflow)
        check_normalized(pairs, self.limit, truncate or overflow, self.growth, self._normalized)
        rows: list[Tokens] = []
        long: list[tuple[int, int]] = []  # index and tokens of texts that are too long
        count = 0
        for portion in portions(pairs, self.growth):
            for encoding in self._encode(portion):
                if limit is not None and len(encoding) > limit and not truncate:
                    long.append((count, len(encoding)))
                elif not long:
                    # Not Tokenizer.enable_truncation: it changes the tokenizer, which other threads use, and it creates an
                    # encoding for every combination of overflowing pieces, which takes gigabytes for a pair of long texts.
                    words = pairs[count]
                    row = Tokens.of(encoding, words.starts if isinstance(words, Words) else None)
                    rows.append(row if limit is None else row.cut(limit, self.cut_left))
                count += 1
        if long:
            found = ", ".join(f"texts[{index}] has {length}" for index, length in long[:10])
            more = f" and {len(long) - 10} more" if len(long) > 10 else ""
            raise InputError(f"expected at most {limit} tokens in a text, found: {found}{more}; {remedy}")
        return rows

    def windows(self, row: Tokens, stride: int, are_words: bool = False) -> list[Tokens]:
        """Divide the tokens of one text into windows of at most the model's maximum, see `Tokens.windows`.

        Args:
            row: tokens of the text, from `encode` with `overflow`.
            stride: number of tokens that consecutive windows share.
            are_words: the text was given as words, whose first tokens have no space before them.
        """
        if self.limit is None or len(row) <= self.limit:
            return [row]
        windows = row.windows(self.limit, stride, self.cut_left)
        if self.keeps_first_space and not are_words:
            for window in windows:
                first = next(position for position, part in enumerate(window.parts) if part is not None)
                start, end = window.offsets[first]
                if start > 0 and (self.tokenizer.id_to_token(window.ids[first]) or "").startswith("Ġ"):
                    window.offsets[first] = (start - 1, end if end > start else end - 1)
        return windows

    def _normalized(self, text: str) -> str:
        with tokenizer_errors(InputError, _FAILED, _REMEDY):
            return str(self.tokenizer.normalizer.normalize_str(text))

    def _encode(self, pairs: Sequence[Checked]) -> list[Encoding]:
        with tokenizer_errors(InputError, _FAILED, _REMEDY):
            if isinstance(pairs[0], Words):
                return list(self.tokenizer.encode_batch(pairs, is_pretokenized=True))
            return list(self.tokenizer.encode_batch(pairs))

    def batches(
        self, rows: Sequence[Tokens], limits: BatchLimits, size: int | None = None, shapes: Sequence[tuple[int, int]] = ()
    ) -> Iterator[Batch]:
        """Yield batches with the lowest cost of padding and calls, shortest texts first; without padding where it counts.

        Args:
            rows: tokens of each text.
            limits: limits of a batch.
            size: maximum number of rows, instead of `limits.rows`.
            shapes: shapes (rows, tokens); a batch is padded to the smallest one that holds it, if there is one.
        """
        most = limits.rows if size is None else size
        counts = self.manifest.padding_counts
        shapes = [] if counts else shapes
        for chosen in split([len(row) for row in rows], most, limits.tokens, limits.call, alike=counts):
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

    def joined_text(self, tokens: Sequence[str]) -> str:
        """Return the text of consecutive tokens, as `convert_tokens_to_string` of transformers does."""
        with tokenizer_errors(AdapterDropError, f"{TOKENIZER}: tokens cannot be decoded", "export the bundle again"):
            decoder = self.tokenizer.decoder
            return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def offset(self, row: Tokens, width: int) -> int:
        """Return the column of the row's first token in a batch of `width` tokens."""
        return width - len(row) if self.pad_left else 0


def _refuse(folder: Path, found: Sequence[str]) -> None:
    """Raise BundleError if the tokenizer exceeds bounds."""
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise BundleError(
            f"{folder / TOKENIZER}: {'; '.join(found[:5])}{more}: such a tokenizer can take hours or gigabytes for a text; "
            "get the bundle from a source that you trust, or export it without a tokenizer and pass token ids"
        )


def _blank(entry: InputEntry, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Return the initial array of an input: zeros, or ones for the mask of a decoder, so that no row is empty.

    An axis other than batch and sequence has length 1, as in a decoder whose output is not requested.
    """
    shape = [int(axis) if axis.isdecimal() else sizes.get(axis, 1) for axis in entry.shape]
    return (np.ones if entry.name == "decoder_attention_mask" else np.zeros)(shape, np.int64)
