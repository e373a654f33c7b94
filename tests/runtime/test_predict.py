"""predict(): the ids of transformers, batches, and the predictions of each head."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import runtime
from runtime.bundle import read_manifest
from runtime.text.encode import BatchLimits, TextEncoder
from runtime.text.interpret import interpret, sigmoid, softmax
from runtime.text.tokens import Tokens, _longest_first
from tests.helpers.runtime_bundles import MAX_LENGTH, TASKS, expected, rewrite, write_bundle
from tests.helpers.small_vocabulary import tokenizer_files

TEXTS: list[Any] = [
    "Angela Merkel visited Lützowplatz, twice!",
    "",
    ("A première", "unbelievably good 🎬"),
    ["one", "two three"],
    "日本 is far",
]
LONG = " ".join(["internationalisation"] * 20)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("predict") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # here: the import takes seconds, and most tests do not need it

    return AutoTokenizer.from_pretrained(folder)


def reference(bundle: Path, texts: list[Any], **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The tokenizer of transformers for the same folder."""
    tokenizer = auto_tokenizer(bundle)
    rows = [tokenizer(*([text] if isinstance(text, str) else text), **options) for text in texts]
    return {name: array.astype(np.int64) for name, array in tokenizer.pad(rows, return_tensors="np").items()}


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_are_those_of_transformers(bundle: Path, tmp_path: Path, side: str) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": side, "truncation_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stored = json.loads((folder / "tokenizer.json").read_text())
    assert stored["truncation"]
    assert stored["padding"]
    texts = [*TEXTS, LONG, (LONG, "short"), ("short", LONG), (LONG, LONG), (LONG, "a b c d e f g h")]
    encoder = TextEncoder.load(folder, read_manifest(folder))
    (batch,) = encoder.batches(encoder.encode(texts, truncate=True), BatchLimits(rows=100, tokens=10000, call=10000))
    wanted = reference(folder, texts, truncation=True, max_length=MAX_LENGTH)
    assert set(batch.feeds) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(batch.feeds[name], array[list(batch.rows)], err_msg=name)


def test_two_endless_texts_are_cut_by_the_encoder(bundle: Path) -> None:
    encoder = TextEncoder.load(bundle, read_manifest(bundle))
    (tokens,) = encoder.encode([("word " * 4000, "other " * 4000)], truncate=True)
    assert [tokens.parts.count(part) for part in (None, 0, 1)] == [3, *_longest_first([4000, 4000], MAX_LENGTH - 3)]
    # The truncation of tokenizers keeps every combination of overflowing pieces: seconds and gigabytes here.
    assert encoder.tokenizer.truncation is None


def test_longest_first_fills_the_room() -> None:
    for first in range(12):
        for second in range(12):
            cut = _longest_first([first, second], 8)
            assert sum(cut) == min(8, first + second)
            assert cut[0] <= first
            assert cut[1] <= second


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_predictions_come_in_the_order_of_the_texts(predictor: runtime.Predictor, bundle: Path, batch_size: int | None) -> None:
    found = predictor.predict(TEXTS, batch_size=batch_size)
    assert list(found) == list(predictor.tasks)
    logits = expected(reference(bundle, TEXTS))
    for row in range(len(TEXTS)):
        topic, flags, stars = (found[task][row] for task in ("topic", "flags", "stars"))
        np.testing.assert_allclose([*topic.scores.values()], softmax(logits["topic"][row]), atol=1e-5)
        assert topic.label == TASKS[0].labels[logits["topic"][row].argmax()]
        assert topic.score == max(topic.scores.values())
        np.testing.assert_allclose([*flags.scores.values()], sigmoid(logits["flags"][row]), atol=1e-5)
        assert flags.labels == tuple(np.array(TASKS[1].labels)[logits["flags"][row] >= 0])
        assert stars.value == pytest.approx(logits["stars"][row, 0], abs=1e-5)


def test_words_carry_the_label_of_their_first_token(predictor: runtime.Predictor, bundle: Path) -> None:
    texts: list[Any] = ["short", TEXTS[0], TEXTS[2]]
    _, single, pair = predictor.predict(texts, tasks=["names"])["names"]
    assert [word.text for word in single.words] == ["Angela", "Merkel", "visited", "Lützowplatz", ",", "twice", "!"]
    assert [TEXTS[0][word.start : word.end] for word in single.words] == [word.text for word in single.words]
    assert [(word.part, word.text) for word in pair.words] == [
        (0, "A"),
        (0, "première"),
        (1, "unbelievably"),
        (1, "good"),
        (1, "🎬"),
    ]
    rows = reference(bundle, texts)
    probabilities = softmax(expected(rows)["names"])[1]
    words = auto_tokenizer(bundle)(TEXTS[0]).word_ids()
    for index, word in enumerate(single.words):
        row = probabilities[words.index(index)]
        assert word.label == TASKS[3].labels[row.argmax()]
        assert word.score == pytest.approx(row.max(), abs=1e-5)


def test_padding_on_the_left_does_not_shift_the_words(bundle: Path, tmp_path: Path, predictor: runtime.Predictor) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rewrite(folder)
    left = runtime.load(folder, provider="cpu", threads=1).predict(TEXTS, ["names"])["names"]
    right = predictor.predict(TEXTS, ["names"])["names"]
    assert [[(word.text, word.label) for word in row.words] for row in left] == [
        [(word.text, word.label) for word in row.words] for row in right
    ]


def test_long_texts_are_refused_by_index_or_cut(predictor: runtime.Predictor) -> None:
    with pytest.raises(runtime.InputError, match=r"at most 16 tokens .* texts\[1\] has \d+; pass truncate=True to"):
        predictor.predict(["fine", LONG])
    words = predictor.predict([LONG, ("a b", LONG)], ["names"], truncate=True)["names"]
    assert 0 < len(words[0].words) < 20
    assert [word.text for word in words[1].words][:2] == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a text", r"expected a list of texts, found str; pass \[text\]"),
        (None, "expected a list of texts, found NoneType"),
        ([], "found an empty list"),
        (
            ["a", 3, ("x",), ("a", None)],
            r"texts\[1\]: .* found int; texts\[2\]: .* tuple of 1: \(str\); texts\[3\]: .*NoneType",
        ),
        ([("a", "b", "c")], r"texts\[0\]: .* a tuple of 3"),
        ([b"bytes"], r"texts\[0\]: expected a str or a pair .* found bytes"),
        (["\ud800"], r"texts\[0\]: .* lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused(predictor: runtime.Predictor, texts: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict(texts)


def test_options_are_checked(predictor: runtime.Predictor) -> None:
    with pytest.raises(runtime.InputError, match="batch_size: expected a positive integer or None, found 0"):
        predictor.predict(["a"], batch_size=0)
    with pytest.raises(runtime.InputError, match="found 'mood'"):
        predictor.predict(["a"], tasks=["mood"])
    with pytest.raises(runtime.InputError, match="found 1;"):
        predictor.predict(["a"], drop=1)


def test_a_bundle_without_tokenizer_points_to_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", tokenizer=False)
    with pytest.raises(runtime.InputError, match=r"without a tokenizer: .* call run\(\)"):
        runtime.load(folder, provider="cpu").predict(["a"])


def test_a_tokenizer_that_does_not_load_is_named(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(runtime.BundleError, match=r"tokenizer\.json: not a tokenizer"):
        runtime.load(folder, provider="cpu", verify=False)


def test_the_pad_id_has_several_sources(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    manifest = read_manifest(bundle)
    for name in tokenizer_files():
        shutil.copy(bundle / name, folder / name)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[MASK]"}}))
    assert TextEncoder.load(folder, manifest).pad_id == 103
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["padding"]["pad_id"] = 102
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert TextEncoder.load(folder, manifest).pad_id == 102
    (folder / "tokenizer.json").write_text(json.dumps(stored | {"padding": None}))
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 101}))
    assert TextEncoder.load(folder, manifest).pad_id == 101


def test_many_threads_share_one_tokenizer(predictor: runtime.Predictor) -> None:
    texts = [[f"{index} words", LONG, ("a", LONG)] for index in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda given: predictor.predict(given, ["topic"], truncate=True), texts))
    assert found == [predictor.predict(given, ["topic"], truncate=True) for given in texts]


def test_spaces_that_a_tokenizer_counts_to_a_word_are_left_out(bundle: Path) -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in "abcd▁")], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    text = "ab cd  ab"
    tokens = Tokens.of(tokenizer.encode(text))
    encoder = TextEncoder(tokenizer, read_manifest(bundle), 0, None, False, False)
    words = interpret(TASKS[3], [np.zeros((len(tokens), 3), np.float32)], text, tokens, encoder).words
    assert [(word.text, word.start, word.end) for word in words] == [("ab", 0, 2), ("cd", 3, 5), ("ab", 7, 9)]


def test_probabilities_are_stable() -> None:
    assert softmax(np.array([1e4, 0, -1e4], np.float32)).tolist() == [1, 0, 0]
    assert sigmoid(np.array([1e4, 0, -1e4], np.float32)).tolist() == [1, 0.5, 0]


def test_to_dict_has_the_fields_of_the_head_and_is_json(predictor: runtime.Predictor) -> None:
    found = predictor.predict(["Anna sings"])
    fields = {task: list(rows[0].to_dict()) for task, rows in found.items()}
    assert fields == {
        "topic": ["head", "drop", "label", "score", "scores"],
        "flags": ["head", "drop", "labels", "scores"],
        "stars": ["head", "drop", "value"],
        "names": ["head", "drop", "words"],
    }
    words = json.loads(json.dumps(found["names"][0].to_dict()))["words"]
    assert words[0]["text"] == "Anna"
    assert list(words[0]) == ["text", "start", "end", "label", "score", "part"]
