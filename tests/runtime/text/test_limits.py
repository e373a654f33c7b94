"""Texts that are too long for memory, and tokenizers that fail: one clear error each."""

import base64
import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.bundle import read_manifest
from runtime.text import limits
from runtime.text.encode import TextEncoder
from runtime.text.limits import LONGEST, LONGEST_TRUNCATED, longest_text
from tests.helpers.runtime_bundles import MAX_LENGTH, rewrite, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("limits") / "bundle")


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> TextEncoder:
    return TextEncoder.load(bundle, read_manifest(bundle))


class _Refusing:
    def encode_batch(self, _pairs: object) -> object:
        raise AssertionError("a text that is too long was tokenized")


def test_the_characters_are_counted_before_tokenizing(encoder: TextEncoder) -> None:
    unused = replace(encoder, tokenizer=_Refusing())
    message = r"at most 100,000 characters in a text, found: texts\[1\] has 100,001; split the text, or pass truncate=True"
    with pytest.raises(runtime.InputError, match=message):
        unused.encode(["fine", "a" * (LONGEST + 1)])
    with pytest.raises(
        runtime.InputError, match=r"at most 1,000,000 characters in a text, found: texts\[0\] has 1,000,001; split the text$"
    ):
        unused.encode([("a" * LONGEST_TRUNCATED, "b")], truncate=True)
    with pytest.raises(runtime.InputError, match=r"at most 100,000 .*has 10,000,000; split the text or shorten it$"):
        unused.encode(["a" * 10_000_000])
    with pytest.raises(runtime.InputError, match=r"texts\[9\] has 100,001 and 2 more"):
        unused.encode(["a" * (LONGEST + 1)] * 12)


def test_texts_at_the_limits_are_encoded(encoder: TextEncoder) -> None:
    (row,) = encoder.encode(["a" * LONGEST])  # one word, which the tokenizer makes one unknown token
    assert len(row) == 3
    (row,) = encoder.encode(["a " * (LONGEST_TRUNCATED // 2)], truncate=True)
    assert len(row) == MAX_LENGTH


def test_characters_are_counted_after_the_normalizer(bundle: Path, tmp_path: Path) -> None:
    folder = _with(shutil.copytree(bundle, tmp_path / "bundle"), normalizer={"type": "NFKC"})
    encoder = TextEncoder.load(folder, read_manifest(folder))
    assert encoder.growth == 18
    longest = "\ufdfa"  # 18 characters in NFKC
    message = (
        r"at most 400,000 characters in a text after the tokenizer's normalization, found more in texts\[1\], which has 30,000"
    )
    unused = replace(encoder, tokenizer=_Normalizing(encoder.tokenizer.normalizer))
    for text in (longest * 30_000, (longest * 15_000, longest * 15_000)):
        with pytest.raises(runtime.InputError, match=message):
            unused.encode(["fine", text])
    with pytest.raises(runtime.InputError, match="at most 4,000,000 characters"):
        unused.encode([longest * 300_000], truncate=True)
    for text in (longest * 22_000, "a" * LONGEST):
        assert encoder.encode([text], truncate=True)
    texts = [longest * 5000] * 100
    assert [len(portion) for portion in limits.portions(texts, encoder.growth)] == [44, 44, 12]


class _Normalizing(_Refusing):
    def __init__(self, normalizer: object) -> None:
        self.normalizer = normalizer


def test_the_limit_grows_with_that_of_the_model() -> None:
    assert longest_text(512, truncate=False) == LONGEST
    assert longest_text(None, truncate=False) == longest_text(512, truncate=True) == LONGEST_TRUNCATED
    assert longest_text(131072, truncate=False) == longest_text(131072, truncate=True) == 131072 * 16
    assert longest_text(2**31 - 1, truncate=False) == 16_000_000


def test_portions_change_no_row(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[Any] = ["one", ("two", "three four"), "", "five six seven " * 9, "eight"] * 3
    wanted = encoder.encode(texts, truncate=True)
    with pytest.raises(runtime.InputError) as whole:
        encoder.encode(texts)
    for size in (1, 7, 50):
        monkeypatch.setattr(limits, "_TOGETHER", size)
        assert [pair for portion in limits.portions(texts) for pair in portion] == texts
        assert encoder.encode(texts, truncate=True) == wanted
        with pytest.raises(runtime.InputError) as parts:
            encoder.encode(texts)
        assert str(parts.value) == str(whole.value)
        assert "texts[3] has 29, texts[8] has 29, texts[13] has 29;" in str(parts.value)


def test_the_rows_of_many_long_texts_are_small(encoder: TextEncoder) -> None:
    tracemalloc.start()
    encoder.encode(["a b " * 50_000] * 3, truncate=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6  # one text's lists at a time


def _with(folder: Path, **parts: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    rewrite(folder)
    return folder


_BAD = {
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x08\0\0\0" + b"\xff" * 30).decode()},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "missing", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    },
    "pre_tokenizer": {"type": "FixedLength", "length": 0},
}


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("normalizer", "not a tokenizer"),
        ("post_processor", "the tokenizer does not work"),
        ("pre_tokenizer", "the tokenizer does not work"),
    ],
)
def test_a_tokenizer_that_panics_is_refused_at_load(bundle: Path, tmp_path: Path, part: str, problem: str) -> None:
    folder = _with(shutil.copytree(bundle, tmp_path / "bundle"), **{part: _BAD[part]})
    with pytest.raises(runtime.BundleError, match=rf"tokenizer\.json: {problem}: .*; export"):
        runtime.load(folder, provider="cpu", threads=1)


def test_a_failure_on_one_text_is_an_input_error(bundle: Path, tmp_path: Path) -> None:
    words = {"type": "WordLevel", "unk_token": "[none]", "vocab": {"one": 1, "two": 2}}
    folder = _with(shutil.copytree(bundle, tmp_path / "bundle"), model=words, post_processor=None, added_tokens=[])
    predictor = runtime.load(folder, provider="cpu", threads=1)
    assert predictor.predict(["one two"], ["topic"])
    with pytest.raises(runtime.InputError, match=r"failed on one of the texts: .*Missing \[UNK\].* call run\(\)"):
        predictor.predict(["three"])


def test_a_panic_while_encoding_is_an_input_error(encoder: TextEncoder) -> None:
    class PanicException(BaseException):  # the name that pyo3 gives it
        pass

    class Panicking:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def encode_batch(self, _pairs: object) -> object:
            raise self.error

    with pytest.raises(runtime.InputError, match="failed on one of the texts: index out of bounds; change"):
        replace(encoder, tokenizer=Panicking(PanicException("index out of bounds"))).encode(["a"])
    with pytest.raises(KeyboardInterrupt):  # other exceptions of this kind pass
        replace(encoder, tokenizer=Panicking(KeyboardInterrupt())).encode(["a"])


@pytest.mark.parametrize("pad_id", [-1, True, 10**30, "0", None])
def test_a_pad_id_that_no_model_has_is_not_used(bundle: Path, tmp_path: Path, pad_id: object) -> None:
    folder = _with(shutil.copytree(bundle, tmp_path / "bundle"), padding=None)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps({"pad_token_id": pad_id}))
    rewrite(folder)
    assert runtime.load(folder, provider="cpu", threads=1).predict(["a", "b c d"], ["topic"])
