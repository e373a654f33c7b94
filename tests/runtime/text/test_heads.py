"""run() and predict() for heads whose logits are not labels of a text, and for inputs that are not texts."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import runtime
from runtime.__main__ import main
from runtime.bundle import read_manifest
from runtime.text.encode import TextEncoder
from runtime.text.interpret import interpret, softmax
from runtime.text.tokens import Tokens
from tests.helpers.runtime_bundles import (
    HEAD_TASKS,
    head_weights,
    keep_tasks,
    rewrite,
    task,
    vision_weights,
    write_decoder,
    write_heads,
    write_vision,
)
from tests.helpers.small_vocabulary import VOCABULARY

PAIRS: list[Any] = [
    ("Who sings?", "Anna sings, and Bo plays."),
    ["Where is Łódź?", "It lies  in Poland 🎬; far from the sea."],
    ("q", "word " * 3),
    ("Which?", f"dog {'fire ' * 40}star"),  # these weights would begin at "dog" and finish at "star", 42 tokens
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Any:
    """The tokenizer of transformers for the same folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundle)


def embedded(ids: Any) -> np.ndarray[Any, Any]:
    return np.asarray(head_weights()["words_w"][np.asarray(ids)])


def best_span(encoding: Any, longest: int) -> tuple[int, int, float]:
    """First and last token of the best answer and its probability, by exhaustive search."""
    context = [place for place, part in enumerate(encoding.sequence_ids()) if part == 1]
    # As the pipeline of transformers: a softmax over the context and the classification token
    begins, finishes = (
        dict(
            zip([0, *context], softmax((embedded(encoding["input_ids"]) @ head_weights()[name])[[0, *context], 0]), strict=True)
        )
        for name in ("begin_w", "finish_w")
    )
    spans = [(first, last) for first, last in product(context, context) if 0 <= last - first < longest]
    first, last = max(spans, key=lambda span: begins[span[0]] * finishes[span[1]])
    return first, last, float(begins[first] * finishes[last])


def test_run_names_several_outputs_after_the_task(predictor: runtime.Predictor) -> None:
    ids = np.arange(1000, 1010).reshape(2, 5)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found = predictor.run(feeds)
    assert list(found) == ["topic", "reader.start_logits", "reader.end_logits", "chooser", "filler", "writer"]
    assert [array.shape for array in found.values()] == [(2, 2), (2, 5), (2, 5), (2, 1), (2, 5, VOCABULARY), (2, 5, VOCABULARY)]
    finishes = (embedded(ids) @ head_weights()["finish_w"])[..., 0]
    np.testing.assert_allclose(found["reader.end_logits"], finishes, atol=1e-5)
    assert list(predictor.run(feeds, ["chooser", "reader"])) == ["chooser", "reader.start_logits", "reader.end_logits"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_answer_is_the_best_span_of_the_context(bundle: Path, tmp_path: Path, reference: Any, side: str) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rewrite(folder)
    found = runtime.load(folder, provider="cpu", threads=1).predict(PAIRS, ["reader"])["reader"]
    limited = 0
    for pair, prediction in zip(PAIRS, found, strict=True):
        encoding = reference(*pair, return_offsets_mapping=True)
        first, last, score = best_span(encoding, 30)
        limited += best_span(encoding, 1000) != (first, last, score)
        start, end = encoding["offset_mapping"][first][0], encoding["offset_mapping"][last][1]
        assert (prediction.answer, prediction.start, prediction.end) == (pair[1][start:end], start, end)
        assert prediction.score == pytest.approx(score, rel=1e-4)
        assert list(prediction.to_dict()) == ["head", "drop", "answer", "start", "end", "score"]
    assert limited == 1  # so that the limit of 30 tokens is tested too


def test_a_context_without_tokens_has_no_answer(predictor: runtime.Predictor) -> None:
    (prediction,) = predictor.predict([("Who?", "")], ["reader"])["reader"]
    assert (prediction.answer, prediction.start, prediction.end, prediction.score) == ("", 0, 0, 0.0)


def test_a_question_without_a_context_is_refused(predictor: runtime.Predictor) -> None:
    with pytest.raises(
        runtime.InputError,
        match=r"task reader: expected pairs \(question, context\), found .*: texts\[1\]; or select other tasks$",
    ):
        predictor.predict([PAIRS[0], "Who?"], ["topic", "reader"])
    assert predictor.predict(["Who?"], ["topic"])["topic"][0].label in HEAD_TASKS[0].labels


def test_a_row_of_multiple_choice_is_the_value_of_one_choice(predictor: runtime.Predictor, reference: Any) -> None:
    texts = [("Is it?", "yes"), ("Is it?", "certainly not"), "single"]
    found = predictor.predict(texts, ["chooser"])["chooser"]
    for text, prediction in zip(texts, found, strict=True):
        ids = reference(*([text] if isinstance(text, str) else text))["input_ids"]
        value = (embedded(ids).sum(0) @ head_weights()["begin_w"])[0]
        assert prediction.to_dict() == {"head": "multiple_choice", "drop": 5, "value": pytest.approx(value, abs=1e-4)}


def test_every_mask_gets_its_most_probable_token(predictor: runtime.Predictor, reference: Any) -> None:
    texts: list[Any] = ["no gap", "Paris is the [MASK] of [MASK].", ("one [MASK]", "two  [MASK] [MASK]"), "[MASK]"]
    found = predictor.predict(texts, ["filler"])["filler"]
    assert [[(word.part, word.start, word.end) for word in row.words] for row in found] == [
        [],
        [(0, 13, 19), (0, 23, 29)],
        [(0, 4, 10), (1, 5, 11), (1, 12, 18)],
        [(0, 0, 6)],
    ]
    for text, prediction in zip(texts, found, strict=True):
        ids = np.array(reference(*([text] if isinstance(text, str) else text))["input_ids"])
        probabilities = softmax(embedded(ids[ids == reference.mask_token_id]) @ head_weights()["out_w"])
        assert [word.label for word in prediction.words] == [reference.decode([row.argmax()]) for row in probabilities]
        np.testing.assert_allclose([word.score for word in prediction.words], probabilities.max(-1), rtol=1e-4)
        assert {word.text for word in prediction.words} <= {"[MASK]"}


def test_a_tokenizer_without_a_mask_token_fills_no_gaps(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<nowhere>"}))
    rewrite(folder)
    predictor = runtime.load(folder, provider="cpu", threads=1)
    with pytest.raises(runtime.InputError, match=r"task filler: expected a tokenizer with a mask token, .*; call run\(\)"):
        predictor.predict(["a [MASK]"], ["topic", "filler"])
    assert predictor.predict(["a"], ["topic"])


def test_spaces_of_a_mask_token_or_its_filling_are_left_out(bundle: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "Ġb": 1, "?": 2}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])  # as RoBERTa has it
    encoder = TextEncoder(tokenizer, read_manifest(bundle), 0, 3, False, False)
    tokens = Tokens.of(tokenizer.encode("a <mask> b"))
    logits = np.tile(np.array([0, 9, 0, 0, 0], np.float32), (len(tokens), 1))
    (word,) = interpret(HEAD_TASKS[3], [logits], "a <mask> b", tokens, encoder).words
    assert (word.text, word.start, word.end, word.label) == ("<mask>", 2, 8, "b")
    (word,) = interpret(HEAD_TASKS[3], [logits[:, ::-1] + np.eye(5)[4] * 10], "a <mask> b", tokens, encoder).words
    assert word.label == "token 4"  # a model's vocabulary may be larger than its tokenizer's


def test_without_a_longest_length_no_text_is_too_long(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    rewrite(folder, max_lengths={})
    predictor = runtime.load(folder, provider="cpu", threads=1)
    (prediction,) = predictor.predict(["word " * 500 + "[MASK]"], ["filler"])["filler"]
    assert [word.start for word in prediction.words] == [2500]


def test_tasks_that_texts_do_not_answer_are_refused_by_name(bundle: Path, predictor: runtime.Predictor) -> None:
    message = r"found writer \(causal_lm\); call run\(\), or select other tasks: topic, reader, chooser, filler$"
    for tasks in (None, ["writer"], ["topic", "writer"]):
        with pytest.raises(runtime.InputError, match=message):
            predictor.predict(["a"], tasks)


def test_the_command_prints_every_kind_of_answer(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(bundle), "--pair", "Who?", "Anna sings a [MASK] song", "--tasks", "reader,chooser,filler"]
    assert main(arguments) == 0
    reader, chooser, filler = (line.split() for line in capsys.readouterr().out.splitlines()[3:])
    assert reader[0] == "reader"
    assert 0 <= float(reader[-1]) <= 1
    assert chooser[0] == "chooser"
    assert chooser[1][0] in "+-"
    assert len(filler) == 3
    assert main([*arguments, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["texts"][0]["predictions"]
    assert answers["reader"]["answer"] == " ".join(reader[1:-1])
    assert answers["filler"]["words"][0]["label"] == filler[1]
    assert main([str(bundle), "--text", "nothing to fill", "--tasks", "filler"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  filler  -"
    assert main([str(bundle), "--text", "a"]) == 2
    assert "writer (causal_lm)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> runtime.Predictor:
    return runtime.load(write_decoder(tmp_path_factory.mktemp("decoder") / "bundle"), provider="cpu", threads=1)


def decoder_feeds(length: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    decoder_ids = np.arange(2 * length).reshape(2, length)
    ids = np.arange(2000, 2010).reshape(2, 5)
    return {
        "input_ids": ids,
        "decoder_input_ids": decoder_ids,
        "decoder_attention_mask": np.ones_like(decoder_ids),
        "word_starts": np.full_like(ids, 7),
    }


def test_run_takes_the_inputs_of_a_decoder_and_a_parser(decoder: runtime.Predictor) -> None:
    found = decoder.run(decoder_feeds())
    assert list(found) == ["topic", "translate", "parse.rel_preds", "parse.arc_preds"]
    wanted = embedded(decoder_feeds()["decoder_input_ids"]) @ head_weights()["out_w"]
    np.testing.assert_allclose(found["translate"], wanted, atol=1e-4)
    assert found["parse.rel_preds"].shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (decoder_feeds(9), r"axis decoder_sequence: expected a length of 1\.\.8, found 9"),
        (decoder_feeds(0), r"axis decoder_sequence: expected a length of 1\.\.8, found 0"),
        (
            {"decoder_attention_mask": np.ones((2, 4), np.int64)},
            "decoder_sequence: .* decoder_input_ids 3, decoder_attention_mask 4",
        ),
        ({"word_starts": np.zeros((1, 5), np.int64)}, "axis batch: expected one length, found input_ids 2, .*, word_starts 1"),
        ({"decoder_input_ids": np.full((2, 3), VOCABULARY)}, rf"decoder_input_ids: expected values in 0\.\.{VOCABULARY - 1}"),
        (
            {name: array[:, :0] for name, array in decoder_feeds().items()},
            "axis sequence: expected a length of at least 1, found 0",
        ),
    ],
)
def test_every_named_axis_is_checked(decoder: runtime.Predictor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        decoder.run(decoder_feeds() | changes)


def test_tasks_next_to_a_decoder_still_take_texts(decoder: runtime.Predictor, reference: Any) -> None:
    texts = ["Anna sings", ("a longer", "pair of texts")]
    found = decoder.predict(texts, ["topic"])["topic"]
    for text, prediction in zip(texts, found, strict=True):
        alone = decoder.predict([text], ["topic"])["topic"][0]
        logits = (
            embedded(reference(*([text] if isinstance(text, str) else text))["input_ids"]).sum(0) @ head_weights()["topic_w"]
        )
        np.testing.assert_allclose([*alone.scores.values()], softmax(logits), atol=1e-4)
        assert prediction.head == "classification"
    with pytest.raises(runtime.InputError, match=r"found translate \(seq2seq_lm\), parse \(dependency_parsing\); call run"):
        decoder.predict(texts)


def test_a_decoder_that_may_belong_to_any_task_is_not_guessed(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "bundle")
    keep_tasks(folder, task("topic", "classification", ("sport", "news")))
    predictor = runtime.load(folder, provider="cpu", threads=1)
    with pytest.raises(runtime.InputError, match=r"this one takes decoder_input_ids, decoder_attention_mask; call run\(\)"):
        predictor.predict(["a"])


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> runtime.Predictor:
    return runtime.load(write_vision(tmp_path_factory.mktemp("vision") / "bundle"), provider="cpu", threads=1)


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).standard_normal(shape or (2, 3, 4, 4)).astype(np.float32)


def test_run_takes_images(vision: runtime.Predictor) -> None:
    found = vision.run({"pixel_values": pixels(5, 3, 4, 4)})["animal"]
    np.testing.assert_allclose(found, pixels(5, 3, 4, 4).mean((2, 3)) @ vision_weights()["animal_w"], atol=1e-5)
    with pytest.raises(runtime.InputError, match=r"takes only texts, this one takes pixel_values; call run\(\)"):
        vision.predict(["a"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "pixel_values: missing"),
        (
            {"pixel_values": pixels().astype(np.float64)},
            r"expected float32, found float64; cast it with .astype\(numpy.float32\)",
        ),
        ({"pixel_values": pixels(2, 3, 4, 5)}, r"expected shape \[batch, 3, 4, 4\], found \[2, 3, 4, 5\]"),
        ({"pixel_values": pixels(3, 4, 4)}, r"expected rank 4 \[batch, 3, 4, 4\], found shape \[3, 4, 4\]"),
        ({"pixel_values": pixels(0, 3, 4, 4)}, "expected at least one row, found an empty batch"),
        ({"pixel_values": np.full((1, 3, 4, 4), np.nan, np.float32)}, "expected finite numbers, found NaN or an infinity"),
        ({"pixel_values": np.full((1, 3, 4, 4), -np.inf, np.float32)}, "expected finite numbers"),
        ({"pixel_values": pixels(), "input_ids": np.ones((2, 3), np.int64)}, "input_ids: unknown, expected pixel_values"),
    ],
)
def test_images_that_do_not_fit_are_refused(vision: runtime.Predictor, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        vision.run(feeds)


def test_an_embedding_is_a_vector(tmp_path: Path, reference: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_decoder(tmp_path / "bundle")
    keep_tasks(folder, task("topic", "text_embedding"), task("translate", "seq2seq_lm"))
    predictor = runtime.load(folder, provider="cpu", threads=1)
    (found,) = predictor.predict(["a text"], ["topic"])["topic"]
    assert found.to_dict() == {"head": "text_embedding", "drop": found.drop, "vector": found.vector}
    ids = reference("a text")["input_ids"]
    np.testing.assert_allclose(found.vector, embedded(ids).sum(0) @ head_weights()["topic_w"], atol=1e-4)
    assert main([str(folder), "--text", "a text", "--tasks", "topic"]) == 0
    assert "(2 numbers)" in capsys.readouterr().out
