"""Entities, windows, words, thresholds and the best labels, on a bundle whose logits depend only on the token."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import runtime
from runtime.__main__ import main
from runtime.text.entities import merge_windows
from runtime.text.predict_options import STRATEGIES
from runtime.text.tokens import Tokens
from tests.helpers.runtime_bundles import MAX_LENGTH, keep_tasks, rewrite, task, write_bundle, write_heads

TEXT = "Angela Merkel visited Lützowplatz, twice!"
LONG = f"{TEXT} And then internationalisation; {TEXT}"
Entity = runtime.Entity


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("entities") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def entities(predictor: runtime.Predictor, text: Any, **options: Any) -> tuple[runtime.Entity, ...]:
    (found,) = predictor.predict([text], ["names"], **{"aggregate": "simple", **options})["names"]
    assert found.words == ()
    assert found.entities is not None
    return found.entities


def tokens(length: int, special: int = 1) -> Tokens:
    """A text of tokens with ascending ids, between special tokens."""
    parts: list[int | None] = [*[None] * special, *[0] * (length - 2 * special), *[None] * special]
    ids = list(range(length))
    return Tokens(ids, [0] * length, parts, [None if part is None else 0 for part in parts], [(each, each + 1) for each in ids])


@pytest.mark.parametrize("stride", [0, 1, 4, 7])
@pytest.mark.parametrize("length", [11, 12, 18, 19, 40])
def test_windows_cover_the_text(length: int, stride: int) -> None:
    whole = tokens(length)
    for left in (False, True):
        found = whole.windows(10, stride, left)
        assert all(len(window) <= 10 and (window.ids[0], window.ids[-1]) == (0, length - 1) for window in found)
        inside = [window.ids[1:-1] for window in found]
        inside = inside[::-1] if left else inside
        assert sorted({each for window in inside for each in window}) == whole.ids[1:-1]
        assert all(len(set(one) & set(two)) >= stride for one, two in pairwise(inside))
        assert all(len(window) == 8 for window in (inside[1:] if left else inside[:-1]))


def test_of_overlapping_entities_the_longest_is_kept() -> None:
    short, sure = Entity("PER", 0.9, "Merkel", 7, 13), Entity("LOC", 0.95, "Merkel", 7, 13)
    long, other = Entity("PER", 0.5, "Angela Merkel", 0, 13), Entity("LOC", 0.5, "Berlin", 13, 19)
    assert merge_windows([other, short, long]) == (long, other)
    assert merge_windows([short, sure, short]) == (sure,)
    assert merge_windows([]) == ()
    empty = Entity("PER", 0.9, "", 0, 0)
    assert merge_windows([empty, long]) == (empty, empty, long)  # as in transformers


def test_entities_do_not_depend_on_padding(predictor: runtime.Predictor, bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rewrite(folder)
    left = runtime.load(folder, provider="cpu", threads=1)
    texts = ["a", LONG, "", TEXT]
    for aggregate in STRATEGIES:
        for options in ({"truncate": True}, {"stride": 3}):
            found = [
                [[(row.entity_group, row.word, row.start, row.end) for row in rows.entities or ()] for rows in each]
                for each in (
                    given.predict(texts, ["names"], aggregate=aggregate, **options)["names"]  # type: ignore[arg-type]
                    for given in (predictor, left)
                )
            ]
            assert found[0] == found[1]
            assert found[0][2] == []
            if "stride" in options:
                assert max(row[3] for row in found[0][1]) > len(LONG) - 10


def test_words_are_labelled_one_by_one(predictor: runtime.Predictor) -> None:
    words = ["Angela", "Merkel's", "", "Lützow platz", "日本"]
    (found,) = predictor.predict([words], ["names"], is_split_into_words=True)["names"]
    assert [word.text for word in found.words] == [word for word in words if word]
    joined = " ".join(words)
    assert all(joined[word.start : word.end] == word.text for word in found.words)
    assert found.words[2].start == joined.index("Lützow")
    (two,) = predictor.predict([["Bo", "sings"]], ["names", "topic"], is_split_into_words=True)["names"]
    assert [(word.text, word.part) for word in two.words] == [("Bo", 0), ("sings", 0)]
    assert entities(predictor, [], is_split_into_words=True) == entities(predictor, "") == ()


def test_other_tasks_keep_their_predictions(predictor: runtime.Predictor) -> None:
    plain = predictor.predict([TEXT])
    found = predictor.predict([TEXT], aggregate="first", threshold=0.0, top_k=2)
    assert list(found) == list(plain)
    assert found["stars"] == plain["stars"]
    assert list(found["names"][0].to_dict()) == ["head", "drop", "entities"]
    assert list(found["names"][0].to_dict()["entities"][0]) == ["entity_group", "score", "word", "start", "end"]
    topic, flags = found["topic"][0], found["flags"][0]
    best = sorted(plain["topic"][0].scores.items(), key=lambda item: -item[1])
    assert list(topic.scores.items()) == best[:2]
    assert (topic.label, topic.score) == best[0]
    assert flags.labels == tuple(flags.scores)
    assert set(flags.labels) == {"rude", "spam"}
    assert predictor.predict([TEXT], ["flags"], threshold=1)["flags"][0].labels == ()
    (one,) = predictor.predict([TEXT], ["flags"], threshold=0, top_k=1)["flags"]
    assert one.labels == tuple(one.scores) == flags.labels[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate": "best"}, "aggregate: expected one of simple, first, max, average or None, found 'best'"),
        ({"aggregate": ["max"]}, r"aggregate: expected .* found \['max'\]"),
        ({"aggregate": "max", "tasks": ["topic"]}, r"aggregate: expected a task with tagging, found topic \(classification\)"),
        ({"stride": 2}, "stride: expected aggregate as well, to merge the windows of a text; pass one of simple"),
        ({"stride": -1, "aggregate": "max"}, "stride: expected a number of tokens, at least 0, or None, found -1"),
        ({"stride": True, "aggregate": "max"}, "stride: expected a number of tokens.* found True"),
        (
            {"stride": 14, "aggregate": "max", "tasks": ["names"]},
            "expected less than 14 tokens, found 14: a window has 16, 2 of",
        ),
        ({"stride": 10**5000, "aggregate": "max", "tasks": ["names"]}, "expected less than 14 tokens, found a very large int"),
        ({"stride": 2, "aggregate": "max"}, r"only tasks with tagging, found topic \(classification\), flags .*select tasks"),
        ({"stride": 2, "aggregate": "max", "truncate": True}, "stride: expected truncate=False"),
        ({"threshold": 1.1}, "threshold: expected a number from 0 to 1 or None, found 1.1"),
        ({"threshold": float("nan")}, "threshold: .* found nan"),
        ({"threshold": "0.5"}, "threshold: .* found '0.5'"),
        ({"threshold": 0.5, "tasks": ["topic"]}, r"threshold: expected a task with multilabel, found topic \(classification\)"),
        ({"top_k": 0}, "top_k: expected a positive integer or None, found 0"),
        ({"top_k": 1.0}, "top_k: expected a positive integer or None, found 1.0"),
        (
            {"top_k": 2, "tasks": ["names"]},
            r"top_k: expected .* classification or multilabel, found names \(tagging\)",
        ),
        ({"is_split_into_words": 1}, "is_split_into_words: expected True or False, found 1"),
        ({"is_split_into_words": True}, r"texts\[0\]: expected a list of words \(is_split_into_words=True\), found str"),
        ({"top_k": 0, "threshold": 2, "batch_size": 0}, "batch_size: .*; threshold: .*; top_k: "),
    ],
)
def test_options_that_have_no_meaning(predictor: runtime.Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict([TEXT], **options)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (
            ["a", ("b", "c")],
            {"aggregate": "max"},
            r"expected single texts for names \(tagging\), found a pair: texts\[1\]",
        ),
        (
            [["a", ["b"]]],
            {"is_split_into_words": True},
            r"texts\[0\]: expected a list of words .* contains a list of 1",
        ),
        ([["a"], ["b", 3]], {"is_split_into_words": True}, r"texts\[1\]: expected a list of words .* contains int"),
        ([["\ud800"]], {"is_split_into_words": True}, r"texts\[0\]: .* lone surrogate"),
        (
            [["a", "b", "c"]],
            {},
            r"texts\[0\]: expected a str .* a list of 3: .*; a list of words needs is_split",
        ),
        (["word " * 20], {"aggregate": "max"}, "pass truncate=True to truncate them, or stride=N to read them in windows"),
        ([["word"] * 20], {"is_split_into_words": True}, r"at most 16 tokens in a text, found: texts\[0\] has 22"),
        (
            [[""] * 200_000],
            {"is_split_into_words": True},
            r"at most 100,000 characters in a text, .* has 199,999",
        ),
        ([LONG * 20_000], {"aggregate": "max", "stride": 2}, r"at most 1,000,000 characters in a text"),
    ],
)
def test_texts_that_do_not_fit(predictor: runtime.Predictor, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict(texts, ["names"], **options)


def test_words_have_no_question(tmp_path: Path) -> None:
    predictor = runtime.load(write_heads(tmp_path / "bundle"), provider="cpu", threads=1)
    with pytest.raises(runtime.InputError, match=r"words: expected tasks .*, found reader \(question_answering\); pass pairs"):
        predictor.predict([["a", "b"]], ["reader"], is_split_into_words=True)


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_level_tokenizers_need_spaces_for_words(bundle: Path, tmp_path: Path, prefix: bool) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": prefix}))
    rewrite(folder)
    predictor = runtime.load(folder, provider="cpu", threads=1)
    if prefix:
        (found,) = predictor.predict([["Bo", "is"]], ["names"], is_split_into_words=True)["names"]
        assert [word.text for word in found.words] == ["Bo", "is"]
    else:
        with pytest.raises(runtime.InputError, match="add_prefix_space=False, so that it would join the words; load"):
            predictor.predict([["Bo", "is"]], ["names"], is_split_into_words=True)


def test_the_command_prints_entities_and_labels(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(bundle), "--text", TEXT, "--threads", "1"]
    assert main([*arguments, "--aggregate", "first", "--top-k", "2", "--tasks", "names,topic"]) == 0
    names, topic = capsys.readouterr().out.splitlines()[-2:]
    assert names.startswith("  names  ")
    assert "/LOC 0." in names
    assert len(topic.split(", ")) == 2
    assert main([*arguments, "--text", LONG, "--aggregate", "max", "--stride", "5", "--tasks", "names", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["texts"]
    assert set(rows[1]["predictions"]["names"]["entities"][0]) == {"entity_group", "score", "word", "start", "end"}
    assert main([*arguments, "--threshold", "0", "--tasks", "flags"]) == 0
    assert "rude" in capsys.readouterr().out
    assert main([*arguments, "--aggregate", "best"]) == 2
    assert capsys.readouterr().err == "error: --aggregate: expected one of simple, first, max or average, found 'best'\n"


def test_labels_of_equal_scores_keep_their_order(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    keep_tasks(folder, task("topic", "classification", ("sport", "news", "arts")))
    predictor = runtime.load(folder, provider="cpu", threads=1)
    (found,) = predictor.predict(["a"], top_k=9)["topic"]
    assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)
    assert np.isclose(sum(found.scores.values()), 1)
    assert MAX_LENGTH == 16
