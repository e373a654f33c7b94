"""Model folders and live models: the loaded model gives the outputs of the saved one, or is refused with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
import torch
from adapters import AutoAdapterModel
from adapters.composition import Fuse, Parallel, Stack
from transformers import (
    BertForSequenceClassification,
    DebertaConfig,
    DebertaModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    ViTConfig,
    ViTImageProcessor,
    WhisperFeatureExtractor,
)

from exporter import ExportError
from exporter.checkpoints.files import first_line
from exporter.checkpoints.load import load
from tests.helpers.load_testing import (
    FEEDS,
    answer,
    assert_equal,
    assert_refused,
    edit,
    fused_model,
    load_quietly,
    randomize,
    save_base_model,
)
from tests.helpers.tiny_models import bert_config, inputs, mpnet_interface, tiny_model, tokenizer

METHODS: dict[str, Any] = {
    "double_seq_bn_inv": "double_seq_bn_inv",
    "compacter": adapters.CompacterConfig(reduction_factor=4),
    "gated_lora": adapters.LoRAConfig(use_gating=True),
    "vera": adapters.VeraConfig(r=4),
    "prompt_tuning": "prompt_tuning",
    "loreft": "loreft",
    "unipelt": adapters.UniPELTConfig(adapter=adapters.SeqBnConfig(use_gating=True)),
}


@pytest.mark.parametrize("method", METHODS)
def test_adapters_inside(tmp_path: Path, method: str) -> None:
    model = tiny_model({"x": (METHODS[method], "3"), "a": (METHODS[method], "2")})
    randomize(model)
    expected = {name: answer(model, name) for name in ("x", "a")}
    model.save_pretrained(tmp_path / "model")
    loaded = load_quietly(tmp_path / "model").model
    # save_pretrained sorts config.json, and with it the adapters.
    assert list(loaded.adapters_config.adapters) == ["a", "x"]
    assert all(not isinstance(config, dict) for config in loaded.adapters_config.config_map.values())
    for name, logits in expected.items():
        assert_equal(answer(loaded, name), logits)


def test_compacter_whose_weights_are_incomplete(tmp_path: Path) -> None:
    """from_pretrained cannot build these, so that its check does not see them."""
    model = tiny_model({"a": (METHODS["compacter"], "2"), "b": ("seq_bn", "2")})
    model.save_pretrained(tmp_path, safe_serialization=False)
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    torch.save({key: value for key, value in weights.items() if "b.adapter_up" not in key}, tmp_path / "pytorch_model.bin")
    assert_refused("lacks 4 weights, first 'bert.encoder.layer.0.output.adapters.b.adapter_up", tmp_path)


@pytest.mark.parametrize("subtracts", [True, False])
def test_direft_and_noreft_are_saved_alike(tmp_path: Path, subtracts: bool) -> None:
    """The library loads DiReFT as NoReFT, without a word."""
    config = adapters.NoReftConfig() if subtracts else adapters.DiReftConfig()
    model = tiny_model({"a": (config, "2")})
    randomize(model)
    expected = answer(model, "a")
    model.save_pretrained(tmp_path / "model")
    model.save_adapter(str(tmp_path / "a"), "a")
    trunk = save_base_model(model, tmp_path / "trunk")
    assert_refused("the adapter 'a' is NoReFT or DiReFT", tmp_path / "model")
    assert_refused("the adapter 'a' in .* is NoReFT or DiReFT", trunk, adapters=[str(tmp_path / "a")])
    for path, section in ((tmp_path / "model" / "config.json", "adapters"), (tmp_path / "a" / "adapter_config.json", "config")):
        content = json.loads(path.read_text())[section]
        for saved in content.get("config_map", {"": content}).values():
            saved["subtract_projection"] = subtracts
        edit(path, **{section: content})
    assert_equal(answer(load(tmp_path / "model").model, "a"), expected)
    assert_equal(answer(load(trunk, adapters=[str(tmp_path / "a")]).model, "a"), expected)


@pytest.mark.parametrize("safe", [True, False])
def test_shards_of_both_formats(tmp_path: Path, safe: bool) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    expected = answer(model, "a")
    model.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="20kB")
    assert len(list(tmp_path.glob("*.safetensors" if safe else "*.bin"))) > 1
    assert_equal(answer(load_quietly(tmp_path).model, "a"), expected)


class Burglar:
    """Pickles to a call."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_runs_code_does_not(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.save_pretrained(tmp_path / "model", safe_serialization=False)
    model.save_adapter(str(tmp_path / "a"), "a")
    trunk = save_base_model(model, tmp_path / "trunk")
    torch.save({"weight": Burglar(tmp_path / "trace")}, tmp_path / "model" / "pytorch_model.bin")
    assert_refused("cannot be loaded: its pickle imports \\w+.mkdir, which could run code", tmp_path / "model")
    for name in ("pytorch_adapter.bin", "pytorch_model_head.bin"):
        before = (tmp_path / "a" / name).read_bytes()
        torch.save({"weight": Burglar(tmp_path / "trace")}, tmp_path / "a" / name)
        assert_refused(f"{name}' cannot be loaded: its pickle imports \\w+.mkdir", trunk, adapters=[str(tmp_path / "a")])
        (tmp_path / "a" / name).write_bytes(before)
    assert not (tmp_path / "trace").exists()


def test_a_folder_with_custom_code_is_refused_without_a_prompt(tmp_path: Path) -> None:
    tiny_model({"a": ("seq_bn", "2")}).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", model_type="burglar", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (tmp_path / "code.py").write_text("raise SystemExit('run')")
    assert_refused("cannot be loaded", tmp_path)


def _static(tmp_path: Path) -> Any:
    model: Any = BertForSequenceClassification(bert_config())
    adapters.init(model)
    model.add_adapter("a", config="seq_bn")
    model.add_adapter("b", config="double_seq_bn")
    randomize(model)
    model.save_pretrained(tmp_path / "model")
    return model


def test_a_static_model_keeps_its_adapters_and_its_head(tmp_path: Path) -> None:
    model = _static(tmp_path)
    loaded = load_quietly(tmp_path / "model").model
    assert type(loaded).__name__ == "BertForSequenceClassification"
    for name in ("a", "b"):
        assert_equal(answer(loaded, name), answer(model, name))


def test_a_static_model_without_its_pooler(tmp_path: Path) -> None:
    """The pooler of a model with named heads may be missing; a static classifier reads it."""
    _static(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model" / "model.safetensors")
    kept = {key: value for key, value in weights.items() if ".pooler." not in key}
    save_file(kept, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert_refused("lacks 2 weights that its config.json requires, first 'bert.pooler", tmp_path / "model")


def _mpnet(tmp_path: Path) -> Any:
    config = MPNetConfig(
        vocab_size=101,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    model: Any = MPNetForSequenceClassification(config)
    adapters.init(model, interface=mpnet_interface())
    model.add_adapter("a", config="seq_bn")
    model.add_adapter("b", config="lora")
    randomize(model)
    (tmp_path / "model").mkdir()  # the library writes the interface before it makes the folder
    model.save_pretrained(tmp_path / "model")
    return model


def test_a_model_with_an_interface(tmp_path: Path) -> None:
    model = _mpnet(tmp_path)
    feeds = {name: FEEDS[name] for name in ("input_ids", "attention_mask")}
    loaded = load_quietly(tmp_path / "model").model
    for name in ("a", "b"):
        assert_equal(answer(loaded, name, feeds=feeds), answer(model, name, feeds=feeds))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be loaded: .*specify and pass `interface`"),
        ({"interface": {}}, "contains no adapter interface"),
        ({"interface": {"frobnicate": 1}}, "contains no adapter interface"),
        ({"model_type": "bert", "interface": {}}, "is for models of type 'bert', the model is of type 'mpnet': save"),
    ],
)
def test_interfaces_that_are_missing_or_wrong(tmp_path: Path, content: Any, message: str) -> None:
    _mpnet(tmp_path)
    path = tmp_path / "model" / "adapter_interface.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(json.dumps(content))
    assert_refused(message, tmp_path / "model")


def test_deberta_has_no_bias_where_the_library_makes_one_up(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    DebertaModel(DebertaConfig(vocab_size=101, max_position_embeddings=40, **size)).save_pretrained(tmp_path / "trunk")
    live = AutoAdapterModel.from_pretrained(tmp_path / "trunk")
    live.add_adapter("a", config="seq_bn")
    live.add_classification_head("a")
    live.save_adapter(str(tmp_path / "a"), "a")
    loaded = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "a")]).model
    assert not loaded.deberta.encoder.layer[0].attention.self.in_proj.bias.any()
    assert_equal(answer(loaded, "a"), answer(live, "a"))


@pytest.mark.parametrize("name", ["adapter_up.bias", "query.bias", "heads.a.1.bias"])
def test_a_bias_that_is_really_missing(tmp_path: Path, name: str) -> None:
    tiny_model({"a": ("seq_bn", "2")}).save_pretrained(tmp_path, safe_serialization=False)
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    kept = {key: value for key, value in weights.items() if not key.endswith(name)}
    assert len(kept) < len(weights)
    torch.save(kept, tmp_path / "pytorch_model.bin")
    assert_refused(f"lacks {len(weights) - len(kept)} weights", tmp_path)


@pytest.mark.parametrize("adapters_inside", [True, False])
def test_more_layers_than_config_json_says_are_refused(tmp_path: Path, adapters_inside: bool) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    if adapters_inside:
        model.save_pretrained(tmp_path)
    else:
        save_base_model(model, tmp_path)
    layers = json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"]
    edit(tmp_path / "config.json", num_hidden_layers=layers - 1)
    assert_refused(r"has \d+ weights that are not in the model .* correct the number of layers", tmp_path)


def test_an_adapter_folder_in_place_of_the_model(tmp_path: Path) -> None:
    tiny_model({"a": ("seq_bn", "2")}).save_adapter(str(tmp_path), "a")
    assert_refused("has no config.json but an adapter; add it with --adapter", tmp_path)


def test_an_adapter_next_to_the_model_names_another_one(tmp_path: Path) -> None:
    """The model would be loaded from there, which may be another folder."""
    tiny_model({"a": ("seq_bn", "2")}).save_pretrained(tmp_path)
    content = {"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    assert_refused("contains a PEFT adapter, with which transformers loads the model that", tmp_path)


def test_tokenizer_and_image_processor_come_along(tmp_path: Path) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoAdapterModel.from_config(ViTConfig(image_size=8, patch_size=4, **size))
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    found = load(tmp_path / "vit")
    assert found.tokenizer is None
    assert found.processor.content["size"] == {"height": 8, "width": 8}
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_processor_type": "Frobnicator"}')
    assert_refused("the image processor in .* cannot be loaded: transformers has no .*'Frobnicator'", tmp_path / "vit")
    # Speech models store a feature extractor in this file, not an image processor.
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    assert load(tmp_path / "vit").processor is None
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path / "vit")
    assert load(tmp_path / "vit").processor.feature_size == 8
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    tokenizer().save_pretrained(tmp_path / "vit")
    assert load(tmp_path / "vit").tokenizer.is_fast


def test_the_setup_of_a_live_model() -> None:
    model = fused_model(("a", "b"), Fuse("a", "b"))
    model.set_active_adapters("a")
    assert load(model).setup is None
    model.set_active_adapters(None)
    assert load(model).setup is None
    for setup in (Stack("a", "b"), Fuse("a", "b"), Parallel("a", "b")):
        model.set_active_adapters(setup)
        found = load(model)
        assert found.setup == setup
        assert found.model is model
    assert found.head == ["a", "b"]


def test_a_live_model_is_not_changed() -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    assert_refused("adapters and fusions require a model folder or hub id", model, adapters=["somewhere"])
    assert model.training


@pytest.mark.parametrize("adapters_", ["a", 5, None])
def test_lists_of_sources(adapters_: Any) -> None:
    with pytest.raises(ExportError, match="must be a list of folders or hub ids"):
        load(None, adapters=adapters_)


def test_more_adapters_next_to_the_bundled_example(tmp_path: Path) -> None:
    example = load(None)
    model = example.model
    model.save_adapter(str(tmp_path / "own"), "movie_sentiment", use_safetensors=True)
    found = load(None, adapters=[f"mine={tmp_path / 'own'}"])
    feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs((2, 6), 30522).items()}
    assert [*example.model.adapters_config.adapters, "mine"] == list(found.model.adapters_config.adapters)
    assert_equal(answer(found.model, "mine", feeds=feeds), answer(model, "movie_sentiment", feeds=feeds))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Error(s) in loading state_dict for Linear:\n\tsize mismatch for weight: (2, 8) and (3, 8)."),
            "Error(s) in loading state_dict for Linear: size mismatch for weight: (2, 8) and (3, 8).",
        ),
        (KeyError("gelu_slow"), "KeyError: 'gelu_slow'"),
        (ValueError("\n one\n two"), "one"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_first_line_of_an_error_says_more_than_a_heading(error: Exception, told: str) -> None:
    assert first_line(error) == told
