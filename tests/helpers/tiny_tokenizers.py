"""Tokenizers of the three usual kinds with a few hundred pieces, and texts to compare them on.

The trainers of the tokenizers library break ties at random, so the pieces are counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

KINDS = ("wordpiece", "bpe", "unigram")
LARGEST_VOCABULARY = 400
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_SENTENCES = (
    "Angela Merkel visited Lützowplatz in Berlin, twice!",
    "The internationalisation of Łódź-based companies isn't slow.",
    "Hugging Face Inc. was founded in New York by Clément Delangue",
    "unbelievably, 3.14 is not π; e-mail me@example.org (today)",
)
_WORDS = " ".join(_SENTENCES).split()
_PIECES = (
    *_WORDS,
    *(
        "日本",
        "東京タワー",
        "🎬",
        "e\u0301t\u00e9",
        "हिन्दी",
        "שָׁלוֹם",
        "한국어",
        "½",
        "\u200b",
        "O'Neill",
        "U.S.A.",
        "##ing",
        "[SEP]",
        "</s>",
    ),
    *("antidisestablishmentarianism", "x" * 30, "---", "…", "\t", "\n", "  ", "\u00a0", "\u3000", "ﬁne", "I-PER"),
)


def tiny_tokenizer(kind: str, limit: int, **settings: Any) -> Any:
    """A tokenizer like those of BERT, RoBERTa (with add_prefix_space) or XLM-R, with a maximum of tokens."""
    made: Tokenizer = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[kind]()
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    given: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    found = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=limit, **given, **settings)
    assert len(found) <= LARGEST_VOCABULARY
    return found


def random_texts(count: int, seed: int = 0, longest: int = 30) -> Iterator[str]:
    """Texts of pieces that are joined by a space, or by nothing."""
    random = Random(seed)  # noqa: S311 - not for cryptography
    for _ in range(count):
        pieces = random.choices(_PIECES, k=random.randint(0, longest))
        yield "".join(piece + random.choice((" ", " ", " ", "")) for piece in pieces)


def _frequent(words: list[str]) -> list[str]:
    """The most frequent parts of words that have several characters."""
    parts = (word[start:end] for word in words for start in range(len(word)) for end in range(start + 2, len(word) + 1))
    return [part for part, _ in sorted(Counter(parts).items(), key=lambda item: (-item[1], item[0]))[:80]]


def _wordpiece() -> Tokenizer:
    words = [word.lower() for word in _WORDS]
    pieces = [*sorted({*"".join(words)}), *_frequent(words)]
    vocabulary = _numbered(*pieces, *(f"##{piece}" for piece in pieces))
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL[3]))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = _template("<s> $A </s> $B:1 </s>:1")
    return made


def _bpe() -> Tokenizer:
    steps = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words = [list(part) for sentence in _SENTENCES for part, _ in steps.pre_tokenize_str(sentence)]
    merges: list[tuple[str, str]] = []
    for _ in range(100):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((first, second))
        for word in words:
            for place in reversed(range(len(word) - 1)):
                if word[place : place + 2] == [first, second]:
                    word[place : place + 2] = [first + second]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(_numbered(*alphabet, *map("".join, merges)), merges))
    made.pre_tokenizer = steps
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    return made


def _unigram() -> Tokenizer:
    words = [f"▁{word}" for word in _WORDS]
    pieces = _numbered(*sorted({*"".join(words)}), *_frequent(words))
    made = Tokenizer(
        models.Unigram([(piece, 0.5 * len(piece) - 9 - place / 1000) for piece, place in pieces.items()], unk_id=3)
    )
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = _template("<s> $A </s> </s> $B </s>")
    return made


def _numbered(*pieces: str) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys([*_SPECIAL, *pieces]))}


def _template(pair: str) -> Any:
    return processors.TemplateProcessing("<s> $A </s>", pair, [("<s>", 0), ("</s>", 2)])
