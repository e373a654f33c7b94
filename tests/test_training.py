"""The training of the bundled example: splits without leaks, words as the runtime sees them, runs that can be interrupted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import add_task, bert_config, tiny_model, tokenizer

from training import fit as fit_module
from training.batches import IGNORED, Encoded, collate, encode, training_batches
from training.card import write_card
from training.corpora import Example, deduplicate, official_split, sample, split_by_unit, universal_tag
from training.evaluate import baseline
from training.fit import fit
from training.tasks import TASKS, TaskSpec

TAGGING = TaskSpec("tags", "tagging", "test", 16, 6)


def test_duplicates_go_and_contradictions_go_altogether() -> None:
    examples = [Example("A  b", "x", "1"), Example("a b", "x", "2"), Example("c", "x", "3"), Example("C", "y", "4")]
    assert deduplicate(examples) == [examples[0]]


def test_units_are_never_on_both_sides() -> None:
    examples = [Example(f"text {number}", "x", f"unit {number % 40}") for number in range(400)]
    splits = split_by_unit(examples)
    assert len(splits.train) + len(splits.test) == 400
    assert not {e.unit for e in splits.train} & {e.unit for e in splits.test}
    assert 0.05 < len(splits.test) / 400 < 0.3
    assert split_by_unit(reversed(examples)).test == list(reversed(splits.test))


def test_an_official_test_example_is_not_trained_on() -> None:
    splits = official_split([Example("seen", "x", ""), Example("new", "x", "")], [Example("Seen ", "x", "")])
    assert [e.text for e in splits.train] == ["new"]


def test_a_sample_depends_on_the_texts_alone() -> None:
    examples = [Example(str(number), "x", "") for number in range(50)]
    assert sample(examples, None) == sample(examples, 50) == examples
    chosen = sample(examples, 10)
    assert len(chosen) == 10
    assert sample(examples[::-1], 10) == chosen[::-1]


@pytest.mark.parametrize(
    ("brown", "coarse"),
    [
        ("at", "DET"),
        ("nn-tl", "NOUN"),
        ("np$", "NOUN"),
        ("fw-in", "ADP"),
        ("ppss+ber", "PRON"),
        ("bez", "VERB"),
        ("md*", "VERB"),
        ("*", "ADV"),
        ("cs", "CONJ"),
        ("od", "NUM"),
        ("to", "PRT"),
        (".", "PUNCT"),
        ("--", "PUNCT"),
        ("uh", "X"),
    ],
)
def test_brown_tags(brown: str, coarse: str) -> None:
    assert universal_tag(brown) == coarse


def test_every_word_of_the_tokenizer_is_labelled_once() -> None:
    words = tokenizer()
    example = Example(("They", "don't", "unbelievably", "."), ("PRON", "VERB", "ADV", "PUNCT"), "")
    encoded = encode(TAGGING, words, [example], ["ADV", "PRON", "PUNCT", "VERB"])[0]
    pieces = words.convert_ids_to_tokens(encoded.inputs["input_ids"])
    labelled = [(piece, label) for piece, label in zip(pieces, encoded.label, strict=True) if label != IGNORED]
    assert labelled[:5] == [("they", 1), ("don", 3), ("'", 3), ("t", 3), (labelled[4][0], 0)]
    assert labelled[5] == (".", 2)


def test_batches_are_the_same_for_the_same_seed_and_go_on_for_ever() -> None:
    examples = [Encoded({"input_ids": [0] * (number % 7 + 1)}, 0) for number in range(20)]
    first, second = ([id(e) for e in batch] for batch in itertools.islice(training_batches(examples, 8, 3), 2))
    assert [first, second] == [[id(e) for e in batch] for batch in itertools.islice(training_batches(examples, 8, 3), 2)]
    epoch = list(itertools.islice(training_batches(examples, 8, 3), 3))
    assert sum(len(batch) for batch in epoch) == 20


def _model() -> tuple[Any, Any, list[Encoded]]:
    words = tokenizer()
    model = tiny_model({}, bert_config(len(words)))
    add_task(model, "tags", "seq_bn", "tag")
    sentences = [Example(("one", "two", f"w{number}"), ("a", "b", "cd"[number % 2]), "") for number in range(64)]
    return model, words, encode(TAGGING, words, sentences, ["a", "b", "c", "d"])


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "CHECKPOINT_EVERY", 2)
    model, words, examples = _model()
    frozen = model.bert.encoder.layer[0].intermediate.dense.weight.clone()
    fit(model, words, TAGGING, examples, 0, tmp_path / "whole.pt")
    assert torch.equal(model.bert.encoder.layer[0].intermediate.dense.weight, frozen)

    again, _, _ = _model()
    calls = itertools.count()

    def stop(*arguments: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return collate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "collate", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(again, words, TAGGING, examples, 0, tmp_path / "cut.pt")
    resumed, _, _ = _model()
    fit(resumed, words, TAGGING, examples, 0, tmp_path / "cut.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_baseline_answers_with_the_most_frequent_label() -> None:
    train = [Encoded({"input_ids": []}, label) for label in (1, 1, 0)]
    test = [Encoded({"input_ids": []}, label) for label in (1, 0, 0, 0)]
    assert baseline(TaskSpec("t", "classification", "", 8, 1), train, test) == 0.25
    numbers = [Encoded({"input_ids": []}, value) for value in (1.0, 3.0)]
    assert baseline(TaskSpec("t", "regression", "", 8, 1), numbers, numbers) == 1.0


def test_the_card_lists_every_drop(tmp_path: Path) -> None:
    result = {"metric": "accuracy", "baseline": 0.5, "by_drop": [0.9, 0.8], "kind": "classification", "labels": ["a", "b"]}
    result |= {
        "train_examples": 10,
        "test_examples": 5,
        "max_length": 8,
        "steps": 3,
        "batch_size": 32,
        "seed": 0,
        "source": "s",
    }
    write_card(tmp_path / "README.md", {"task": result})
    assert "| task | accuracy % | 50.0 | 90.0 | 80.0 |" in (tmp_path / "README.md").read_text()


def test_the_example_covers_five_label_counts_a_regression_a_tagging_and_a_pair_task() -> None:
    assert len(TASKS) == 8
    assert [task.kind for task in TASKS].count("classification") == 6
