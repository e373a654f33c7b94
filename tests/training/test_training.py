"""The training of the bundled example: splits without leaks, the words of the tokenizer, and resumed runs."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.tiny_models import add_task, bert_config, tiny_model, tokenizer
from training import fit as fit_module
from training import models
from training.batches import IGNORED, Encoded, collate, encode, training_batches
from training.card import write_card
from training.corpora import Example, deduplicate, official_split, sample, split_by_unit, universal_tag
from training.evaluate import baseline
from training.fit import fit
from training.tasks import FUSION, TASKS, TaskSpec

TAGGING = TaskSpec("tags", "tagging", "test", 16, 6)
MIX = TaskSpec("mix", "classification", "test", 16, 6, members=("a", "b"))


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


def test_a_sample_depends_only_on_the_texts() -> None:
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


def test_batches_are_repeatable_for_a_seed_and_never_end() -> None:
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
    monkeypatch.setattr(fit_module, "CHECKPOINTS", 2)
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


def _logits(model: Any, task: TaskSpec, drop: int = 0) -> torch.Tensor:
    model.eval().set_active_adapters(task.setup, skip_layers=list(range(drop)))
    with torch.inference_mode():
        logits: torch.Tensor = model(**tokenizer()(["one", "two words"], padding=True, return_tensors="pt")).logits
    return logits


@pytest.fixture
def tiny_base_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(models, "base_model", lambda: tiny_model({}, bert_config(len(tokenizer()), layers=3)))
    return models.base_model()


def test_a_fusion_trains_nothing_but_itself_and_its_head(tmp_path: Path, tiny_base_model: Any) -> None:
    words = tokenizer()
    for name in MIX.members:
        add_task(tiny_base_model, name, "seq_bn", "2")
        tiny_base_model.save_adapter(str(tmp_path / name), name, use_safetensors=True)
    model = models.base_model()
    models.add_task(model, MIX, ["x", "y"], tmp_path)
    before = copy.deepcopy(model.state_dict())
    examples = encode(MIX, words, [Example(f"number {n}", "xy"[n % 2], "") for n in range(64)], ["x", "y"])
    fit(model, words, MIX, examples, 0, tmp_path / "checkpoint.pt")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".mix.")[0].rpartition(".")[2] for name in changed} == {"adapter_fusion_layer", "heads"}

    folder = MIX.folder(tmp_path)
    models.save(model, MIX, folder)
    assert {tensor.dtype for tensor in load_file(folder / models.FUSION_WEIGHTS).values()} == {torch.float16}
    again = models.load(MIX, folder, tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    for drop in range(4):
        assert torch.allclose(_logits(model, MIX, drop), _logits(again, MIX, drop), atol=1e-3)


def test_a_fusion_without_its_members_is_refused(tmp_path: Path, tiny_base_model: Any) -> None:
    with pytest.raises(models.MissingMemberError, match="mix fuses a, which is not in"):
        models.add_task(tiny_base_model, MIX, ["x", "y"], tmp_path)


def test_tied_layers_stay_equal_and_load_from_a_plain_folder(tmp_path: Path, tiny_base_model: Any) -> None:
    words = tokenizer()
    models.add_task(tiny_base_model, TAGGING, ["a", "b"], tmp_path)
    whole = models.adapter_parameters(tiny_base_model, "tags")
    models.tie_layers(tiny_base_model, "tags")
    assert models.adapter_parameters(tiny_base_model, "tags") * 3 == whole
    examples = encode(TAGGING, words, [Example(("one", f"w{n}"), ("a", "b"), "") for n in range(64)], ["a", "b"])
    fit(tiny_base_model, words, TAGGING, examples, 0, tmp_path / "checkpoint.pt")
    expected = [_logits(tiny_base_model, TAGGING, drop) for drop in range(4)]

    models.untie_layers(tiny_base_model, "tags")
    models.save(tiny_base_model, TAGGING, tmp_path / "tags")
    layers: dict[str, list[torch.Tensor]] = {}
    for name, tensor in load_file(tmp_path / "tags" / "adapter.safetensors").items():
        layers.setdefault(name.partition(".adapters.")[2], []).append(tensor)
    assert layers
    for tensors in layers.values():
        assert len(tensors) == 3
        assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)
    again = models.load(TAGGING, tmp_path / "tags", tmp_path)
    assert all(torch.equal(_logits(again, TAGGING, drop), expected[drop]) for drop in range(4))


def test_the_baseline_answers_with_the_most_frequent_label() -> None:
    train = [Encoded({"input_ids": []}, label) for label in (1, 1, 0)]
    test = [Encoded({"input_ids": []}, label) for label in (1, 0, 0, 0)]
    assert baseline(TaskSpec("t", "classification", "", 8, 1), train, test) == 0.25
    numbers = [Encoded({"input_ids": []}, value) for value in (1.0, 3.0)]
    assert baseline(TaskSpec("t", "regression", "", 8, 1), numbers, numbers) == 1.0


def test_the_card_lists_drops_the_shared_variant_and_the_fusion(tmp_path: Path) -> None:
    result = {"metric": "accuracy", "baseline": 0.5, "by_drop": [0.9, 0.8], "kind": "classification", "labels": ["a", "b"]}
    result |= {
        "parameters": 3000,
        "train_examples": 10,
        "test_examples": 5,
        "max_length": 8,
        "steps": 3,
        "batch_size": 32,
        "seed": 0,
        "source": "s",
    }
    write_card(tmp_path / "README.md", {"task": result})
    plain = (tmp_path / "README.md").read_text()
    assert "| task | accuracy % | 50.0 | 90.0 | 80.0 |" in plain
    assert "Cross-layer sharing" not in plain
    mix = result | {"members": ["task"], "fusion": "dynamic", "learning_rate": 0.1, "parameters": 4000}
    write_card(tmp_path / "README.md", {"task": result | {"shared": {"by_drop": [0.7, 0.6], "parameters": 1000}}, "mix": mix})
    card = (tmp_path / "README.md").read_text()
    assert "| task | one per layer | 3,000 | 90.0 | 80.0 |\n| task | one for all layers | 1,000 | 70.0 | 60.0 |\n" in card
    assert "| mix | accuracy % | 50.0 | 90.0 | 80.0 |" in card
    assert "the fusion's 4,000 parameters" in card


def test_the_example_covers_every_kind_of_task_and_a_fusion() -> None:
    assert len(TASKS) == 8
    assert FUSION.members == tuple(task.name for task in TASKS)
    assert [task.kind for task in TASKS].count("classification") == 6
