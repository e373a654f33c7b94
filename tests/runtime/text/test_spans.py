"""Words and answers end behind the last code point of a character, in composed and decomposed Unicode."""

import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from runtime.bundle import read_manifest
from runtime.text.encode import TextEncoder
from runtime.text.interpret import interpret
from runtime.text.spans import trimmed, whole
from tests.helpers.runtime_bundles import HEAD_TASKS, task, write_heads

TEXTS = [
    "café, naïve Zürich",
    "한국어 말",
    "Đặng Thị Ngọc",
    "हिन्दी में",
    "the éclair é",
    "שָׁלוֹם עולם",
    "ö",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = write_heads(tmp_path_factory.mktemp("spans") / "bundle")
    return TextEncoder.load(folder, read_manifest(folder))


def with_normalizer(encoder: TextEncoder, normalizer: Any, pre_tokenizer: Any) -> TextEncoder:
    """A tokenizer with a token per character."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0)], unk_id=0, byte_fallback=False))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return replace(encoder, tokenizer=tokenizer)


def words(encoder: TextEncoder, text: Any) -> list[str]:
    (tokens,) = encoder.encode([text])
    found = interpret(task("names", "tagging", ("O",)), [np.zeros((len(tokens), 1))], text, tokens, encoder).words
    parts = [text] if isinstance(text, str) else text
    assert [parts[word.part][word.start : word.end] for word in found] == [word.text for word in found]
    return [word.text for word in found]


PUNCTUATION = pre_tokenizers.BertPreTokenizer()
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (None, PUNCTUATION),
        (normalizers.BertNormalizer(), PUNCTUATION),
        (normalizers.NFC(), PUNCTUATION),
        (normalizers.NFKC(), pre_tokenizers.Metaspace()),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), PUNCTUATION),
        (normalizers.NFC(), BYTES),
        (None, BYTES),
    ],
    ids=["plain", "bert", "nfc", "metaspace", "stripped", "nfc bytes", "bytes"],
)
def test_words_do_not_depend_on_the_form(encoder: TextEncoder, form: Any, normalizer: Any, pre_tokenizer: Any) -> None:
    given = with_normalizer(encoder, normalizer, pre_tokenizer)
    for text in TEXTS:
        composed, text = unicodedata.normalize("NFC", text), unicodedata.normalize(form, text)
        found = words(given, text)
        # No word starts at a mark, and together they are the text
        assert not [word for word in found if unicodedata.category(word[0])[0] == "M"]
        assert "".join(found) == "".join(text.split())
        if pre_tokenizer is not BYTES:  # which splits at marks and at letters that follow them
            assert [unicodedata.normalize("NFC", word) for word in found] == words(given, composed)


def test_the_tokenizer_of_bert_keeps_accents(encoder: TextEncoder) -> None:
    text = unicodedata.normalize("NFD", "café 한국 crème, ñ")
    assert words(encoder, text) == [unicodedata.normalize("NFD", word) for word in ("café", "한국", "crème", ",", "ñ")]
    assert words(encoder, (text, text))[:2] == words(encoder, text)[:2]


def test_an_answer_ends_behind_its_accent(encoder: TextEncoder) -> None:
    for answer in ("café", "말", "Ngọc"):
        context = unicodedata.normalize("NFD", f"in {answer} it was")
        (tokens,) = encoder.encode([("where?", context)])
        inside = [place for place, part in enumerate(tokens.parts) if part == 1 and tokens.words[place] == 1]
        starts, ends = np.zeros(len(tokens)), np.zeros(len(tokens))
        starts[inside[0]], ends[inside[-1]] = 9, 9
        found = interpret(HEAD_TASKS[1], [starts, ends], ("where?", context), tokens, encoder)
        assert found.answer == unicodedata.normalize("NFD", answer) == context[found.start : found.end]


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        ("cafe\u0301!", 0, 4, "cafe\u0301"),
        ("e\u0301\u0323x", 0, 1, "e\u0301\u0323"),
        ("ae\u0301x", 2, 4, "e\u0301x"),
        ("\u1112\u1161\u11ab\u1100", 0, 1, "\u1112\u1161\u11ab"),
        ("\u1112\u1161\u1100\u1161", 0, 2, "\u1112\u1161"),
        ("하\u11ab가", 0, 1, "하\u11ab"),
        ("한\u1161", 0, 1, "한"),
        ("\u1100\u1100\u1161", 0, 1, "\u1100\u1100\u1161"),
        ("👍\U0001f3fd!", 0, 1, "👍\U0001f3fd"),
        ("❤\ufe0f!", 0, 1, "❤\ufe0f"),
        ("ﾊ\uff9fｶﾞ", 0, 1, "ﾊ\uff9f"),
        ("ﾊ\uff9fｶ\uff9e", 2, 3, "ｶ\uff9e"),
        ("🏴\U000e0067\U000e0062\U000e007f!", 0, 1, "🏴\U000e0067\U000e0062\U000e007f"),
        (" word ", 0, 6, "word"),
        ("a \u0301b", 0, 2, "a"),
        ("a \u0301b", 2, 4, "\u0301b"),
        ("\u0301a", 0, 2, "\u0301a"),
        ("a b", 1, 2, ""),
        ("é", 1, 1, ""),
    ],
)
def test_whole_characters(text: str, start: int, end: int, expected: str) -> None:
    found, begin, finish = whole(text, start, end)
    assert found == expected == text[begin:finish]
    assert trimmed(text, begin, finish) == (found, begin, finish)


def test_words_of_one_character_are_kept(encoder: TextEncoder) -> None:
    given = with_normalizer(encoder, normalizers.NFKC(), PUNCTUATION)
    assert words(given, "½ is") == ["½"] * len(words(given, "½")) + ["is"]


def test_halfwidth_katakana_keeps_its_marks(encoder: TextEncoder) -> None:
    """NFKC composes the letter and its mark, and the tokenizer's offsets end between them."""
    given = with_normalizer(encoder, normalizers.NFKC(), PUNCTUATION)
    assert words(given, "\uff8a\uff9f, \uff76\uff9e") == ["\uff8a\uff9f", ",", "\uff76\uff9e"]
