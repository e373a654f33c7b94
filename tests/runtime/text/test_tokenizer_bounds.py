"""Tokenizers that take hours or gigabytes for a text: refused at load, in a moment; all usual ones are loaded."""

import base64
import json
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers

import runtime
from runtime.text import tokenizer_bounds
from runtime.text.tokenizer_bounds import excesses, loaded_excesses
from tests.helpers.runtime_bundles import rewrite, write_bundle
from tests.helpers.tiny_tokenizers import KINDS, tiny_tokenizer
from tests.runtime.text.test_pattern_cost import PUBLISHED

_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _replace(text: str, by: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: text}, "content": by}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def _charsmap(text: str) -> str:
    return base64.b64encode((0).to_bytes(4, "little") + text.encode() + b"\0").decode()


def _template(single: list[dict[str, Any]], ids: int = 1) -> dict[str, Any]:
    special = {"[CLS]": {"id": "[CLS]", "ids": [2] * ids, "tokens": ["[CLS]"] * ids}}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


_TEXT = {"Sequence": {"id": "A", "type_id": 0}}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "a pattern of a pre-tokenizer": ({"pre_tokenizer": _split("(x+x+)+y")}, r"pre_tokenizer has a pattern .* '\(x\+x\+\)\+y'"),
    "a pattern of a normalizer": ({"normalizer": _replace("(a|a)*$", "", "Regex")}, "normalizer has a pattern that may take"),
    "a pattern of a decoder": ({"decoder": _replace("(a|a)*$", "", "Regex")}, "decoder has a pattern that may take"),
    "a pattern that is not known": ({"pre_tokenizer": _split(r"(a*)*\1")}, "a pattern that repeats a part that may be empty"),
    "many patterns": ({"pre_tokenizer": _sequence("pretokenizers", *[_split("a*b")] * 20)}, "all patterns together"),
    "a long replacement": (
        {"normalizer": _replace("a", "b" * 10**6)},
        "a text of 1,000,000 characters, expected at most 1,000",
    ),
    "replacements one after another": (
        {"normalizer": _sequence("normalizers", *[_replace("a", "aa")] * 30)},
        "normalizer may make 1,073,741,824 characters of one",
    ),
    "replacements of nothing": (
        {"normalizer": _sequence("normalizers", _replace("", "a" * 99), _sequence("normalizers", _replace("", "a" * 99)))},
        "10,000 characters of one",
    ),
    "insertions before words": (
        {"normalizer": _sequence("normalizers", *[_replace(r"(?=\w)", "a" * 99, "Regex")] * 2)},
        "10,000 ",
    ),
    "prefixes": ({"normalizer": _sequence("normalizers", *[{"type": "Prepend", "prepend": "a" * 999}] * 2)}, "1,000,000 "),
    "a map of characters": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": _charsmap("a" * 5000)}},
        "normalizer may make 5,000 characters of one",
    ),
    "bytes of bytes": ({"pre_tokenizer": _sequence("pretokenizers", *[_BYTES] * 12)}, "1,220,703,125 characters of one"),
    "normal forms": ({"normalizer": _sequence("normalizers", *[{"type": "NFKC"}, _replace("x", "\ufdfa")] * 3)}, "5,832 "),
    "replacements of a decoder": (
        {"decoder": _sequence("decoders", *[_replace("a", "a" * 100)] * 2)},
        "decoder may make 10,000",
    ),
    "many components": (
        {"normalizer": _sequence("normalizers", *[{"type": "NFC"}] * 40)},
        "40 components, expected at most 32",
    ),
    "nested sequences": ({"pre_tokenizer": None}, "more than 32 nested sequences"),
    "special tokens": ({"post_processor": _template([_special("[CLS]")] * 100 + [_TEXT])}, "adds 100 tokens to a text"),
    "a special token of many": ({"post_processor": _template([_special("[CLS]"), _TEXT], 10**6)}, "adds 1,000,000 tokens"),
    "copies of the text": ({"post_processor": _template([_TEXT] * 3)}, "adds 128 tokens"),
    "a long word": (
        {"model": {"type": "WordPiece", "max_input_chars_per_word": 10**6}},
        "max_input_chars_per_word is 1,000,000",
    ),
    "a long prefix": ({"model": {"type": "WordPiece", "continuing_subword_prefix": "#" * 99}}, "prefix has 99 characters"),
    "a long piece": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a" * 300, 0.0]]}}, "a piece of 300 characters"),
    "a long token": ({"added_tokens": [{"id": 1, "content": "a" * 1001, **_ADDED}]}, "added token has 1,001 characters"),
    "many tokens": ({"added_tokens": [{"id": n, "content": f"{n:0900}", **_ADDED} for n in range(6000)]}, "6,000 added tokens"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bounds") / "bundle")


def _bomb(name: str) -> dict[str, Any]:
    if name == "nested sequences":
        part: dict[str, Any] = _split("a")
        for _ in range(60):
            part = _sequence("pretokenizers", part)
        return {"pre_tokenizer": part}
    return _BOMBS[name][0]


@pytest.mark.parametrize("name", _BOMBS)
def test_tokenizers_that_take_hours_or_gigabytes_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | _bomb(name)))
    rewrite(folder)
    start = time.process_time()
    with pytest.raises(runtime.BundleError, match=rf"tokenizer\.json: .*{_BOMBS[name][1]}.*; get the bundle from a source"):
        runtime.load(folder, provider="cpu", threads=1)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", KINDS)
def test_usual_tokenizers_are_within_the_bounds(kind: str) -> None:
    backend = tiny_tokenizer(kind, 32).backend_tokenizer
    assert excesses(backend.to_str().encode()) == loaded_excesses(backend) == []


def test_the_components_of_albert_are_within_the_bounds() -> None:
    parts = [_replace("``", '"'), _replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    parts += [{"type": "Precompiled", "precompiled_charsmap": _charsmap("a" * 18)}, _replace(" {2,}", " ", "Regex")]
    marks = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    document = {"normalizer": _sequence("normalizers", *parts), "pre_tokenizer": marks}
    assert excesses(json.dumps(document).encode()) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_with_bytes_are_within_the_bounds(name: str) -> None:
    document = {"normalizer": {"type": "NFC"}, "pre_tokenizer": _sequence("pretokenizers", _split(PUBLISHED[name]), _BYTES)}
    assert excesses(json.dumps(document).encode()) == []


def test_components_without_a_type_are_read_by_their_settings(bundle: Path) -> None:
    """The library accepts some files of its first versions, which do not name their components."""
    content = json.loads((bundle / "tokenizer.json").read_text())
    untyped = {"pattern": {"Regex": "(a|a)*$"}, "content": "b" * 2000}
    assert len(excesses(json.dumps(content | {"normalizer": untyped}).encode())) == 3
    loaded = Tokenizer.from_str(json.dumps(content))
    loaded.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 20)
    assert loaded_excesses(loaded) == ["the normalizer may make 1,048,576 characters of one, expected at most 2,000"]


def test_the_growth_of_normal_forms() -> None:
    longest = dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Lowercase"), 0)
    for code in range(0x110000):
        character = chr(code)
        if "\ud800" <= character <= "\udfff":
            continue
        for form in longest:
            made = character.lower() if form == "Lowercase" else unicodedata.normalize(form, character)  # type: ignore[arg-type]
            longest[form] = max(longest[form], len(made))
    assert all(longest[form] <= tokenizer_bounds._GROWTH[form] for form in longest), longest


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"model": 1, "added_tokens": 3, "normalizer": []}', b'{"normalizer": {"normalizers": [1]}}'],
)
def test_what_is_no_tokenizer_is_left_to_the_library(content: bytes) -> None:
    assert excesses(content) == []
