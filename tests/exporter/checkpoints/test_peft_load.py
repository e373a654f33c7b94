"""PEFT folders: several adapters on one base model, and what is refused instead of being loaded wrong."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForSequenceClassification, BertForSequenceClassification, BertForTokenClassification

from exporter.checkpoints.peft_adapters import load_peft
from exporter.checkpoints.peft_reference import References
from exporter.errors import ExportError
from exporter.models.peft import structure_of
from exporter.models.peft_structure import label_count
from tests.helpers import support_models
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import METHODS, TARGETS, answer, config, peft_model, scramble, tuned_model

SAFE, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
LORA: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 4, "target_modules": ["query"]}
Change = Callable[[dict[str, torch.Tensor]], object]


def base(labels: int = 2, **settings: Any) -> Any:
    torch.manual_seed(1)
    return BertForSequenceClassification(config(num_labels=labels, **settings))


def saved(folder: Path, settings: Any, seed: int = 0, safe: bool = True, model: Any = None) -> Path:
    """A folder of one adapter, called otherwise than it will be."""
    peft_model(settings, ["other"], model or base(), seed).save_pretrained(folder, safe_serialization=safe)
    return folder / "other"


def change_weights(folder: Path, change: Change) -> Path:
    weights = load_file(folder / SAFE)
    change(weights)
    save_file(weights, folder / SAFE)
    return folder


def change_config(folder: Path, **settings: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def assert_loaded(model: Any, name: str, folder: Path, labels: int = 2) -> None:
    """Compare with PEFT, which loads only that folder into a base model with the same number of labels."""
    single = base()
    single.classifier = torch.nn.Linear(32, labels)
    expected = peft.PeftModel.from_pretrained(single, folder).eval()
    model.set_adapter(name)
    assert not model.training
    assert_parity(answer(model, inputs((3, 5))).logits.numpy(), answer(expected, inputs((3, 5))).logits.numpy())


@pytest.mark.parametrize("method", METHODS)
def test_several_adapters_on_one_base(method: str, tmp_path: Path) -> None:
    sources = {
        "first": saved(tmp_path / "0", METHODS[method], 0),
        "second": saved(tmp_path / "1", METHODS[method], 1, safe=False),
        # Part of many names in the model.
        "layer": saved(tmp_path / "2", METHODS[method], 2),
        # Ends with the name of the head, by which PEFT finds the head.
        "topic_classifier": saved(tmp_path / "3", METHODS[method], 3),
    }
    model = load_peft(base(), sources)
    assert model.active_adapter == "first"
    for name, folder in sources.items():
        assert_loaded(model, name, folder)


def test_heads_with_other_label_counts(tmp_path: Path) -> None:
    lora = peft.LoraConfig(**LORA)
    sources = {str(labels): saved(tmp_path / str(labels), lora, labels, model=base(labels)) for labels in (3, 2, 1)}
    model = load_peft(base(), sources, missing=["classifier.weight", "classifier.bias"])
    for name, folder in sources.items():
        assert label_count(model, name) == int(name)
        assert_loaded(model, name, folder, int(name))


def test_heads_of_an_encoder_decoder(tmp_path: Path) -> None:
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], modules_to_save=["classification_head"])

    def bart(labels: int) -> Any:
        torch.manual_seed(1)
        return BartForSequenceClassification(BartConfig(**support_models.CONFIGS["Bart"], num_labels=labels))

    sources = {str(labels): saved(tmp_path / str(labels), lora, labels, model=bart(labels)) for labels in (3, 2)}
    missing = [f"classification_head.{part}.{key}" for part in ("dense", "out_proj") for key in ("weight", "bias")]
    model = load_peft(bart(4), sources, missing=missing)
    assert [label_count(model, name) for name in sources] == [3, 2]


def test_projections_of_vera_are_each_adapters_own(tmp_path: Path) -> None:
    wide: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 4, "target_modules": ["output.dense"]}
    narrow: dict[str, Any] = {**wide, "target_modules": ["query"]}
    sources = {
        "wide": saved(tmp_path / "0", peft.VeraConfig(**wide), 0),
        "narrow": saved(tmp_path / "1", peft.VeraConfig(**narrow), 1),
        "same": saved(tmp_path / "2", peft.VeraConfig(**narrow), 2),
        "changed": saved(tmp_path / "3", peft.VeraConfig(**narrow), 3),
    }
    change_weights(sources["changed"], lambda weights: weights["base_model.vera_A"].mul_(2))
    model = load_peft(base(), sources)
    for name, folder in sources.items():
        assert_loaded(model, name, folder)
    pointers = {name: model.base_model.vera_A[name].data_ptr() for name in sources}
    assert pointers["narrow"] == pointers["same"]
    assert len(set(pointers.values())) == 3
    # The last two only differ in their projections.
    structures = [structure_of(model, name, name, 0) for name in sources]
    assert structures[1] == structures[2]
    assert structures[2] != structures[3]
    made_again = {
        "changed": sources["changed"],
        "narrow": saved(tmp_path / "4", peft.VeraConfig(**narrow, save_projection=False), 4),
        "wide": saved(tmp_path / "5", peft.VeraConfig(**wide, save_projection=False), 5),
    }
    mixed = load_peft(base(), made_again)
    for name, folder in made_again.items():
        assert_loaded(mixed.part(name), name, folder)


DAMAGES: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda weights: weights.pop(next(key for key in weights if "lora_B" in key)),
        "lacks 1 weights, first .*lora_B",
    ),
    "no head": (lambda weights: weights.pop("base_model.model.classifier.bias"), "lacks the weight .*classifier.bias"),
    "left over": (
        lambda weights: weights.update(strange=torch.ones(1)),
        "has 1 weights that are not in the model, first 'str",
    ),
    "base": (
        lambda weights: weights.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.ones(101, 32)}),
        "has 1 weights of the base model with other values, first .*word_embeddings.weight'.*save_embedding_layers=False",
    ),
    "shape": (
        lambda weights: weights.update({key: tensor[:, :3].clone() for key, tensor in weights.items() if "lora_A" in key}),
        "trained for another model: size mismatch for .*lora_A",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit(damage: str, tmp_path: Path) -> None:
    change, reason = DAMAGES[damage]
    folder = change_weights(saved(tmp_path, peft.LoraConfig(**LORA)), change)
    with pytest.raises(ExportError, match=f"the adapter 'a' in .*{reason}"):
        load_peft(base(), {"a": folder})


@pytest.mark.parametrize("targets", [["query"], ["q_proj"]])
def test_modules_with_other_names(targets: list[str], tmp_path: Path) -> None:
    """As those of transformers 5 for ViT: PEFT targets other layers or none."""
    folder = change_weights(saved(tmp_path, peft.LoraConfig(**LORA)), _rename)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": targets}))
    with pytest.raises(
        ExportError, match=r"no module 'bert\.layers\.0\.attention\.self\.query': .*another version of transformers"
    ):
        load_peft(base(), {"a": folder})


def _rename(weights: dict[str, torch.Tensor]) -> None:
    for key in list(weights):
        weights[key.replace("encoder.layer", "layers")] = weights.pop(key)


def test_adapters_of_other_models(tmp_path: Path) -> None:
    for number, (settings, reason) in enumerate(
        [
            ({"num_hidden_layers": 3}, "it has 3 layers, the base model 2"),
            ({"num_hidden_layers": 1}, "lacks 2 weights"),
            ({"hidden_size": 16}, "size mismatch"),
        ]
    ):
        folder = saved(tmp_path / str(number), peft.LoraConfig(**LORA), model=base(**settings))
        with pytest.raises(ExportError, match=reason):
            load_peft(base(), {"a": folder})


def test_embeddings_saved_with_the_adapter_are_the_bases_own(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    model = peft_model(peft.LoraConfig(**LORA), ["other"], base())
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    assert any("word_embeddings" in key for key in load_file(folder / SAFE))
    assert_loaded(load_peft(base(), {"a": folder}), "a", folder)


def test_heads_that_an_older_configuration_does_not_name(tmp_path: Path) -> None:
    folder = saved(tmp_path, peft.LoraConfig(**LORA))
    old = shutil.copytree(folder, tmp_path / "old")
    change_config(old, modules_to_save=None)
    model = load_peft(base(), {"a": old})
    assert_loaded(model, "a", folder)


def test_an_injected_adapter_has_the_head_of_the_base(tmp_path: Path) -> None:
    # As model.add_adapter(LoraConfig(task_type="SEQ_CLS", …)) and model.save_pretrained write it.
    folder = saved(tmp_path, peft.LoraConfig(**LORA))
    change_weights(folder, lambda weights: [weights.pop(key) for key in list(weights) if "classifier" in key])
    with pytest.raises(ExportError, match="lacks the weight"):
        load_peft(base(), {"a": folder})
    change_config(folder, modules_to_save=None)
    plain = peft.get_peft_model(base(), peft.LoraConfig(**{**LORA, "task_type": None}))
    peft.set_peft_model_state_dict(plain, load_file(folder / SAFE))
    references = References()
    references.add(base(), {"a": folder})
    expected = answer(plain.eval(), inputs((3, 5))).logits.numpy()
    for found in (load_peft(base(), {"a": folder}), references("a")):
        assert_parity(answer(found, inputs((3, 5))).logits.numpy(), expected)
    with pytest.raises(ExportError, match=r"lacks 2 weights .* with 'classifier' in modules_to_save"):
        load_peft(base(), {"a": folder}, ["classifier.weight", "classifier.bias"])


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"peft_type": "XLORA"}, "has the PEFT type XLORA, which has no static graph"),
    "no type": ({"peft_type": None}, "has the PEFT type None"),
    "task": ({"task_type": "TOKEN_CLS"}, "a BertForSequenceClassification: expected .* ends in ForTokenClassification"),
    "features": ({"task_type": "FEATURE_EXTRACTION"}, "a BertForSequenceClassification: expected .* ends in Model"),
    "corda": ({"init_lora_weights": "corda"}, "trained on base weights that init_lora_weights='corda' changed"),
    "tokens": ({"trainable_token_indices": [1]}, "lacks .*token"),
    "import": ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "sets megatron_config"),
    "newer": ({"of_another_day": 1}, "sets of_another_day"),
    "targets": ({"target_modules": ["q_proj"]}, "does not fit BertForSequenceClassification"),
    "exponential": ({"target_modules": "(a|a)*b$"}, "a regular expression in target_modules that may take exponential time"),
    "empty": ({"rank_pattern": {"(.*)*x": 4}}, r"in rank_pattern that repeats a part that may be empty: '\(\.\*\)\*x'; list"),
    "rank": ({"r": 0}, "does not fit BertForSequenceClassification"),
    "pattern": ({"target_modules": "query", "layers_to_transform": [1]}, "not a valid PEFT configuration"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_are_refused(name: str, tmp_path: Path) -> None:
    settings, reason = CONFIGS[name]
    folder = change_config(saved(tmp_path, peft.LoraConfig(**LORA)), **settings)
    with pytest.raises(ExportError, match=reason):
        load_peft(base(), {"a": folder})


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.layer\.(0|1)\.attention\.self\.(query|value)$",
        r"^(?!.*pooler).*(query|value).*$",
        r"bert\.encoder\.layer\.\d+.*\.query",
    ],
)
def test_regular_expressions_of_users(pattern: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, peft.LoraConfig(**{**LORA, "target_modules": pattern}))
    assert_loaded(load_peft(base(), {"a": folder}), "a", folder)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from a pickle ran",)


def test_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path, peft.LoraConfig(**LORA))
    whole = (folder / SAFE).read_bytes()
    (folder / SAFE).write_bytes(whole[:-9])
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_peft(base(), {"a": folder})
    (folder / SAFE).unlink()
    with pytest.raises(ExportError, match="has no weights"):
        load_peft(base(), {"a": folder})
    (folder / PICKLED).write_bytes(pickle.dumps({"a": _Code()}))
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_peft(base(), {"a": folder})
    assert "ran" not in capsys.readouterr().out
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ExportError, match="cannot be read as JSON"):
        load_peft(base(), {"a": folder})


def test_adapters_and_bases_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = saved(tmp_path / "0", peft.LoraConfig(**LORA))
    ia3 = saved(tmp_path / "1", METHODS["ia3"])
    mixed = load_peft(base(), {"a": lora, "b": ia3})
    assert [mixed.part(name).peft_type for name in ("a", "b")] == [peft.PeftType.LORA, peft.PeftType.IA3]
    with pytest.raises(ExportError, match="has the task_type SEQ_CLS, the base model is a BertForTokenClassification"):
        load_peft(BertForTokenClassification(config()), {"a": lora})
    with pytest.raises(ExportError, match="already contains PEFT adapters"):
        load_peft(peft_model(peft.LoraConfig(**LORA), ["a"]).get_base_model(), {"b": lora})
    with pytest.raises(ExportError, match=r"lacks 1 weights .*first 'bert.pooler.dense.weight': .* 'pooler' in modules_to"):
        load_peft(base(), {"a": lora}, missing=["bert.pooler.dense.weight", "classifier.weight"])
    headless = saved(tmp_path / "2", peft.LoraConfig(r=4, target_modules=TARGETS))
    with pytest.raises(ExportError, match="1 weights that the adapter 'b' does not have"):
        load_peft(base(), {"a": lora, "b": headless}, missing=["classifier.weight"])
    with pytest.raises(ExportError, match="no PEFT adapter was given"):
        load_peft(base(), {})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ExportError, match=r"pip install 'adapterdrop-onnx\[export,peft,cpu\]'"):
        load_peft(copy.deepcopy(base()), {"a": lora})


def test_adapters_that_wrap_different_modules(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "tokens": {"trainable_token_indices": [5, 7]},
        "plain": {},
        "embeddings": {"target_modules": ["word_embeddings", "query"]},
        "trained": {"modules_to_save": ["word_embeddings"]},
        "head": {"target_modules": ["query", "classifier"], "modules_to_save": []},
        # No other adapter can change the weight of the same layer in one model.
        "dense": {"target_modules": ["output.dense"]},
        "parameters": {"target_parameters": ["layer.1.output.dense.weight"]},
    }
    sources = {
        name: saved(tmp_path / name, peft.LoraConfig(**{**LORA, **own}), seed)
        for seed, (name, own) in enumerate(settings.items())
    }
    model = load_peft(base(), sources)
    for name, folder in sources.items():
        assert_loaded(model.part(name), name, folder)


def test_settings_that_a_layer_has_once(tmp_path: Path) -> None:
    miss: dict[str, Any] = {**LORA, "target_modules": TARGETS}
    ia3: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["key", "output.dense"]}
    settings = {
        "plain": peft.MissConfig(**miss),
        "bat": peft.MissConfig(**miss, init_weights="bat"),
        "mini": peft.MissConfig(**miss, init_weights="mini", mini_r=8),
        "results": peft.IA3Config(**ia3, feedforward_modules=[]),
        "inputs": peft.IA3Config(**ia3, feedforward_modules=["output.dense"]),
    }
    sources = {}
    for name, own in settings.items():
        scramble(peft.get_peft_model(base(), own), "miss_block").save_pretrained(tmp_path / name)
        sources[name] = tmp_path / name
    model = load_peft(base(), sources)
    for name, folder in sources.items():
        assert_loaded(model.part(name), name, folder)


def test_weights_that_peft_does_not_write_are_not_missing(tmp_path: Path) -> None:
    model = tuned_model("ADALORA", base(), ("a",))
    model.save_pretrained(tmp_path)
    assert not any("ranknum" in key for key in load_file(tmp_path / "a" / SAFE))
    assert_loaded(load_peft(base(), {"other": tmp_path / "a"}), "other", tmp_path / "a")


def test_saved_modules_that_peft_saves_in_part(tmp_path: Path) -> None:
    """The names of three modules in "embeddings" end with it, too; PEFT does not load what it saves."""
    folder = saved(tmp_path, peft.LoraConfig(**LORA, modules_to_save=["embeddings"]))
    with pytest.raises(ExportError, match=r'PEFT saves in part: name the inner ones, such as "word_embeddings"'):
        load_peft(base(), {"a": folder})
