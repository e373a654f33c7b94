"""Folders of adapters and heads for a base model: loaded exactly as saved, or refused where the library only warns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import adapters
import pytest
import torch
from adapters import AutoAdapterModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    T5Config,
    T5ForSequenceClassification,
)

from exporter import ExportError
from exporter.checkpoints.load import load
from exporter.checkpoints.sources import split_name
from tests.helpers.load_testing import (
    FEEDS,
    answer,
    assert_equal,
    assert_refused,
    edit,
    load_quietly,
    randomize,
    save_base_model,
)
from tests.helpers.tiny_models import bert_config, tiny_model

METHODS: dict[str, Any] = {
    "seq_bn_inv": "seq_bn_inv",
    "compacter": adapters.CompacterConfig(reduction_factor=4),
    "mtl_lora": "mtl_lora",
    "dvora": adapters.DvoRAConfig(r=4),
    "ia3": "ia3",
    "prefix_tuning": "prefix_tuning",
    "prompt_tuning": "prompt_tuning",
    "loreft": "loreft",
    "mam": "mam",
}


@pytest.fixture
def tasks(tmp_path: Path) -> Any:
    """A model with the tasks a and ab, its trunk in trunk/, its adapters in all/."""
    model = tiny_model({"a": ("seq_bn", "2"), "ab": ("seq_bn", "tag")})
    randomize(model)
    save_base_model(model, tmp_path / "trunk")
    model.save_all_adapters(str(tmp_path / "all"))
    return model


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_under_a_new_name(tmp_path: Path, method: str, safe: bool) -> None:
    """The library forgets to rename prompts, and finds no safetensors unless it is told that there are some."""
    if safe and method in ("prefix_tuning", "mam"):
        pytest.skip("the library cannot save shared prefixes as safetensors")
    model = tiny_model({"a": (METHODS[method], "2")})
    randomize(model)
    trunk = save_base_model(model, tmp_path / "trunk")
    model.save_adapter(str(tmp_path / "a"), "a", use_safetensors=safe)
    loaded = load_quietly(trunk, adapters=[f"new={tmp_path / 'a'}", str(tmp_path / "a")]).model
    assert list(loaded.adapters_config.adapters) == list(loaded.heads) == ["new", "a"]
    assert not loaded.training
    for name in ("new", "a"):
        assert_equal(answer(loaded, name), answer(model, name if name == "a" else "a"))


def test_a_folder_of_folders(tmp_path: Path, tasks: Any) -> None:
    # Training checkpoints are not tasks.
    shutil.copytree(tmp_path / "all" / "a", tmp_path / "all" / "checkpoint-500")
    loaded = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "all")]).model
    assert list(loaded.adapters_config.adapters) == ["a", "ab"]
    for name in ("a", "ab"):
        assert_equal(answer(loaded, name), answer(tasks, name))


def test_a_head_file_also_holds_heads_with_the_same_prefix(tmp_path: Path, tasks: Any) -> None:
    """Loading `a` after `ab`, the library overwrites the head of `ab`."""
    saved = torch.load(tmp_path / "all" / "a" / "pytorch_model_head.bin", weights_only=True)
    assert any(key.startswith("heads.ab.") for key in saved)
    with torch.no_grad():
        tasks.heads["ab"][-1].weight.add_(1.0)
    tasks.save_adapter(str(tmp_path / "new"), "ab")
    for order in (["new", "all/a"], ["all/a", "new"]):
        loaded = load(tmp_path / "trunk", adapters=[str(tmp_path / name) for name in order]).model
        for name in ("a", "ab"):
            assert_equal(answer(loaded, name), answer(tasks, name))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk and one adapter, whose head has two layers."""
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model({})
    model.add_adapter("a", config="seq_bn")
    model.add_classification_head("a")
    save_base_model(model, folder / "trunk")
    model.save_adapter(str(folder / "a"), "a")
    return folder


def _weights(folder: Path, name: str, change: Any) -> None:
    weights = torch.load(folder / name, weights_only=True)
    torch.save(change(weights), folder / name)


def _without(text: str) -> Any:
    return lambda weights: {key: value for key, value in weights.items() if text not in key}


def _with(key: str) -> Any:
    return lambda weights: {**weights, key: torch.zeros(2)}


def _reshaped(text: str) -> Any:
    return lambda weights: {key: value[:1] if text in key else value for key, value in weights.items()}


def _config(folder: Path, file: str = "adapter_config.json", **changes: Any) -> None:
    edit(folder / file, **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: _weights(f, "pytorch_adapter.bin", _without("layer.1.output")),
            "lacks 4 weights, first 'bert.encoder.layer.1",
        ),
        (
            lambda f: _weights(f, "pytorch_adapter.bin", _with("bert.encoder.layer.9.x")),
            "has 1 weights that are not in the model",
        ),
        (
            lambda f: _weights(f, "pytorch_adapter.bin", _with("bert.embeddings.LayerNorm.bias")),
            "has 1 weights that are not in the model",
        ),
        (
            lambda f: _weights(f, "pytorch_adapter.bin", _reshaped("layer.0")),
            "has 4 weights of another shape, first .* instead of",
        ),
        (lambda f: _weights(f, "pytorch_adapter.bin", lambda _: [1]), "must contain named tensors, found list"),
        (lambda f: (f / "pytorch_adapter.bin").unlink(), "has no weights: expected adapter.safetensors or pytorch_adapter.bin"),
        (lambda f: (f / "pytorch_adapter.bin").write_bytes(b"PK"), "pytorch_adapter.bin' cannot be loaded"),
        (lambda f: (f / "pytorch_adapter.bin").write_text("version https://git-lfs"), "it is a git-lfs pointer"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"\0" * 20), "adapter.safetensors' cannot be loaded"),
        (lambda f: (f / "adapter_config.json").unlink(), "has pytorch_adapter.bin but no adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: _config(f, name=None), "has no name"),
        (lambda f: _config(f, config=None), "has no adapter configuration, found None"),
        (lambda f: _config(f, config="some/hub-id"), "has no adapter configuration, found 'some/hub-id'"),
        (lambda f: _config(f, config={"architecture": "frobnicate"}), "cannot be added to the BertAdapterModel"),
        (lambda f: _config(f, config={"mh_adapter": True}), "cannot be added to the BertAdapterModel"),
        (
            lambda f: _config(f, model_type="roberta"),
            "trained for .* with model_type 'roberta'; the BertAdapterModel .* has 'bert'",
        ),
        (lambda f: _config(f, hidden_size=768), "trained for .* with hidden_size 768; the BertAdapterModel .* has 32"),
        (lambda f: (f / "pytorch_model_head.bin").unlink(), "the head 'a' in .* has no weights"),
        (lambda f: (f / "head_config.json").unlink(), "has pytorch_model_head.bin but no head_config.json"),
        (lambda f: _weights(f, "pytorch_model_head.bin", _without("bias")), "the head 'a' in .* lacks 2 weights"),
        (lambda f: _weights(f, "pytorch_model_head.bin", _with("lm_head.bias")), "has 1 weights that are not in the model"),
        (lambda f: _weights(f, "pytorch_model_head.bin", _reshaped("heads.a.4")), "has 2 weights of another shape"),
        (
            lambda f: _config(f, "head_config.json", model_class="RobertaAdapterModel"),
            "head of a RobertaAdapterModel, which cannot",
        ),
        (
            lambda f: _config(f, "head_config.json", config={"head_type": "frobnicate"}),
            "cannot be added to .* 'frobnicate' is not",
        ),
        (lambda f: _config(f, "head_config.json", config=5), "has no head configuration, found 5"),
        (lambda f: [path.unlink() for path in f.iterdir()], "contains neither an adapter nor a fusion"),
    ],
)
def test_damaged_folders(saved: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """Of most of these the library says nothing and leaves the weights random."""
    shutil.copytree(saved / "a", tmp_path / "a")
    damage(tmp_path / "a")
    assert_refused(message, saved / "trunk", adapters=[str(tmp_path / "a")])


def test_a_model_with_fewer_or_more_layers(tmp_path: Path, tasks: Any) -> None:
    for layers, message in (
        (1, "has 4 weights that are not in the model, first 'bert.encoder.layer.1"),
        (3, "lacks 4 weights"),
    ):
        config = bert_config()
        config.num_hidden_layers = layers
        BertModel(config).save_pretrained(tmp_path / str(layers))
        assert_refused(message, tmp_path / str(layers), adapters=[str(tmp_path / "all" / "a")])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["all/a", "a={}/all/ab"], "two different adapters have the name 'a', one from .*a' and one from .*ab'"),
        (["b={}/all"], "contains 'a', 'ab': the name 'b' requires a single adapter"),
        (["nowhere"], "there is no adapter folder"),
        (["trunk"], "contains neither an adapter nor a fusion"),
    ],
)
def test_sources_that_clash_or_are_none(tmp_path: Path, tasks: Any, sources: list[str], message: str) -> None:
    texts = [text.format(tmp_path) if "=" in text else str(tmp_path / text) for text in sources]
    assert_refused(message, tmp_path / "trunk", adapters=texts)


def test_an_adapter_that_the_model_has_already(tmp_path: Path, tasks: Any) -> None:
    tasks.save_pretrained(tmp_path / "model")
    assert_refused(
        "the adapter 'a' .* has the name of one that is already in the model",
        tmp_path / "model",
        adapters=[str(tmp_path / "all")],
    )
    loaded = load(tmp_path / "model", adapters=[f"new={tmp_path / 'all' / 'a'}"]).model
    assert_equal(answer(loaded, "new"), answer(tasks, "a"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", ("a", "b")),
        ("a=b=c", ("a", "b=c")),
        ("folder/a=b", (None, "folder/a=b")),
        ("org/name", (None, "org/name")),
        ("=b", "has no name"),
        ("a=", "has no source"),
        ("a.b=c", "contains a dot"),
        (5, "found 5"),
    ],
)
def test_names_of_sources(text: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ExportError, match=expected):
            split_name(text)
    else:
        assert split_name(text) == expected


def test_a_folder_whose_name_has_an_equals_sign(tmp_path: Path, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "all" / "a", tmp_path / "lr=1")
    assert list(load("trunk", adapters=["lr=1"]).model.heads) == ["a"]


@pytest.mark.parametrize("ours", ["google-bert/bert-base", "bert-base"])
def test_the_name_of_the_base(tmp_path: Path, tasks: Any, monkeypatch: pytest.MonkeyPatch, ours: str) -> None:
    """Hub ids identify an adapter of another model of the same size; folder names do not."""
    from exporter.checkpoints import assemble
    from exporter.checkpoints.sources import Source

    found = Source(ours, tmp_path / "trunk", ours)
    folder = tmp_path / "all" / "a"
    for theirs in (ours, "BERT-base", "", "other/bert-base", str(tmp_path / "somewhere")):
        edit(folder / "adapter_config.json", model_name=theirs)
        edit(folder / "head_config.json", model_name=theirs)
        assert list(assemble.assemble(found, [str(folder)], []).model.heads) == ["a"]
    edit(folder / "adapter_config.json", model_name="google-bert/bert-large")
    with pytest.raises(ExportError, match=f"was trained for the model 'google-bert/bert-large', not for '{ours}'"):
        assemble.assemble(found, [str(folder)], [])
    assert list(load(tmp_path / "trunk", adapters=[str(folder)]).model.heads) == ["a"]


def _static(cls: Any, tmp_path: Path, name: str, base: Any = None, **options: Any) -> Any:
    """A model with one head and the adapter `name`, which is saved in a folder of that name."""
    config = bert_config()
    for key, value in options.items():
        setattr(config, key, value)
    model = cls(config)
    if base is not None:
        model.bert.load_state_dict(base.bert.state_dict(), strict=False)
    model.save_pretrained(tmp_path / f"{name}_base")
    state = {key: value.clone() for key, value in model.bert.state_dict().items()}
    adapters.init(model)
    model.add_adapter(name, config="seq_bn")
    randomize(model)
    model.bert.load_state_dict(state, strict=False)
    model.save_adapter(str(tmp_path / name), name)
    return model


def test_heads_of_static_models_become_named_heads(tmp_path: Path) -> None:
    """Three label counts on one base model, whose head is not the head of a task."""
    models: dict[str, Any] = {}
    for name, count in (("two", 2), ("three", 3), ("one", 1)):
        base = models.get("two")
        models[name] = _static(BertForSequenceClassification, tmp_path, name, base, num_labels=count)
    found = load_quietly(tmp_path / "two_base", adapters=[str(tmp_path / name) for name in models]).model
    assert list(found.heads) == ["two", "three", "one"]
    for name, model in models.items():
        assert_equal(answer(found, name), answer(model, name))


def test_the_head_file_of_a_t5_model_holds_its_trunk(tmp_path: Path) -> None:
    """The library would load it over the base model."""
    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0)
    model: Any = T5ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    adapters.init(model)
    model.add_adapter("a", config="seq_bn")
    randomize(model)
    model.save_adapter(str(tmp_path / "a"), "a")
    found = load_quietly(tmp_path / "base", adapters=[str(tmp_path / "a")]).model
    feeds = {"input_ids": torch.tensor([[5, 6, 7, 1], [8, 9, 4, 1]])}
    assert_equal(answer(found, "a", feeds=feeds), answer(model, "a", feeds=feeds))
    T5ForSequenceClassification(config).save_pretrained(tmp_path / "other")
    assert_refused("was saved with a trunk that differs from", tmp_path / "other", adapters=[str(tmp_path / "a")])


def test_a_masked_language_model_shares_the_base_embeddings(tmp_path: Path) -> None:
    model = _static(BertForMaskedLM, tmp_path, "a")
    found = load_quietly(tmp_path / "a_base", adapters=[str(tmp_path / "a")]).model
    assert torch.allclose(answer(found, "a"), answer(model, "a"), atol=1e-6)
    before = found.bert.embeddings.word_embeddings.weight.clone()
    _weights(tmp_path / "a", "pytorch_model_head.bin", lambda weights: {key: value + 1 for key, value in weights.items()})
    assert_refused("contains word embeddings that differ", tmp_path / "a_base", adapters=[str(tmp_path / "a")])
    assert torch.equal(before, found.bert.embeddings.word_embeddings.weight)


def test_adapters_without_heads_keep_the_head_of_a_static_base(tmp_path: Path) -> None:
    model = _static(BertForSequenceClassification, tmp_path, "a")
    model.save_pretrained(tmp_path / "unused")
    for name in ("head_config.json", "pytorch_model_head.bin"):
        (tmp_path / "a" / name).unlink()
    found = load_quietly(tmp_path / "a_base", adapters=[str(tmp_path / "a")]).model
    with torch.no_grad():
        model.classifier.load_state_dict(found.classifier.state_dict())
    assert type(found).__name__ == "BertForSequenceClassification"
    assert_equal(answer(found, "a"), answer(model, "a"))


def test_a_head_that_no_named_head_is_like(tmp_path: Path) -> None:
    """It fills the one head of a static model; a second one must be the same."""
    model = _static(BertForNextSentencePrediction, tmp_path, "a")
    save_base_model(model, tmp_path / "trunk")
    found = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "a")]).model
    assert type(found).__name__ == "BertForNextSentencePrediction"
    assert_equal(answer(found, "a"), answer(model, "a"))
    both = [str(tmp_path / "a"), f"b={tmp_path / 'a'}"]
    assert list(load(tmp_path / "trunk", adapters=both).model.adapters_config.adapters) == ["a", "b"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    _weights(tmp_path / "b", "pytorch_model_head.bin", lambda weights: {key: value + 1 for key, value in weights.items()})
    assert_refused(
        "differ, but a BertForNextSentencePrediction has one head",
        tmp_path / "trunk",
        adapters=[both[0], f"b={tmp_path / 'b'}"],
    )
    model.save_pretrained(tmp_path / "model")
    assert_refused("which the adapters in the model folder use", tmp_path / "model", adapters=[f"b={tmp_path / 'b'}"])
    assert list(load(tmp_path / "model", adapters=[f"b={tmp_path / 'a'}"]).model.adapters_config.adapters) == ["a", "b"]


def test_a_head_that_reads_a_pooler_which_the_base_lacks(tmp_path: Path) -> None:
    model = _static(BertForSequenceClassification, tmp_path, "a")
    save_base_model(model, tmp_path / "trunk")
    path = tmp_path / "trunk" / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "pooler" not in key}, path, metadata={"format": "pt"})
    assert_refused("lacks 2 weights .* first 'bert.pooler", tmp_path / "trunk", adapters=[str(tmp_path / "a")])


def test_a_head_of_another_class_than_the_models(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    other = AutoAdapterModel.from_config(RobertaConfig(vocab_size=101, max_position_embeddings=48, **size))
    other.add_adapter("a", config="seq_bn")
    other.add_classification_head("a")
    other.save_adapter(str(tmp_path / "a"), "a")
    save_base_model(tiny_model({}), tmp_path / "trunk")
    assert_refused(
        "with model_type 'roberta'; the BertAdapterModel .* has 'bert'", tmp_path / "trunk", adapters=[str(tmp_path / "a")]
    )


def _peft(tmp_path: Path, name: str, labels: int) -> Any:
    base = BertForSequenceClassification.from_pretrained(tmp_path / "trunk", num_labels=labels)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2), name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora" in key or "modules_to_save" in key:
                parameter.normal_(0, 0.1)
    model.save_pretrained(str(tmp_path / "peft"))
    return model.eval()


def test_peft_folders(tmp_path: Path) -> None:
    save_base_model(tiny_model({}), tmp_path / "trunk")
    models = {"two": _peft(tmp_path, "two", 2), "three": _peft(tmp_path, "three", 3)}
    found = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "peft" / "two"), f"new={tmp_path / 'peft' / 'three'}"])
    assert sorted(found.model.peft_config) == ["new", "two"]
    for name, model in models.items():
        found.model.set_adapter(name if name == "two" else "new")
        with torch.no_grad():
            assert_equal(found.model(**FEEDS).logits, model(**FEEDS).logits)
    # Without a task_type, PEFT writes down the class.
    changes = {"task_type": None, "auto_mapping": {"base_model_class": "BertForSequenceClassification"}}
    edit(tmp_path / "peft" / "two" / "adapter_config.json", **changes)
    single = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "peft" / "two")]).model
    with torch.no_grad():
        assert_equal(single(**FEEDS).logits, models["two"](**FEEDS).logits)
    edit(tmp_path / "peft" / "two" / "adapter_config.json", task_type="SEQ_CLS")
    # A folder of such folders, each with the name of its adapter.
    assert sorted(load(tmp_path / "trunk", adapters=[str(tmp_path / "peft")]).model.peft_config) == ["three", "two"]


def test_peft_folders_that_do_not_fit(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    save_base_model(model, tmp_path / "trunk")
    model.save_adapter(str(tmp_path / "a"), "a")
    _peft(tmp_path, "two", 2)
    folder = tmp_path / "peft" / "two"
    both = [str(folder), str(tmp_path / "a")]
    assert_refused("is from the adapters library, but there are PEFT adapters too", tmp_path / "trunk", adapters=both)
    shutil.copytree(folder, tmp_path / "peft" / "tags")
    edit(tmp_path / "peft" / "tags" / "adapter_config.json", task_type="TOKEN_CLS")
    # Task types can differ: each is loaded into its class.
    mixed = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "peft")]).model
    assert [type(mixed.part(name)).__name__ for name in ("tags", "two")] == [
        "PeftModelForTokenClassification",
        "PeftModelForSequenceClassification",
    ]
    edit(folder / "adapter_config.json", task_type="FROBNICATE")
    assert_refused("has the task_type 'FROBNICATE'", tmp_path / "trunk", adapters=[str(folder)])
    assert json.loads((tmp_path / "trunk" / "config.json").read_text())["model_type"] == "bert"
