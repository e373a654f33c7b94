"""Every PEFT tuner: pruned and patched for the trace, against the library with the lowest layers' adapters disabled."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from peft import LoHaConfig
from peft.tuners.loha.layer import Conv2d as LoHaConv2d
from peft.tuners.lora.config import BdLoraConfig
from torch import nn
from transformers import BertForSequenceClassification

from exporter.errors import ExportError
from exporter.models.binding import task_weights
from exporter.models.inputs import max_lengths
from exporter.models.peft import activate, layers_without_adapter, prune, structure_of
from exporter.models.peft_folded import Folded, FoldedAttention, FoldedConv
from exporter.models.peft_modules import has_adapted_embeddings, is_layer
from exporter.models.peft_structure import structure
from exporter.models.peft_types import PREFIXES, REFUSED
from exporter.models.peft_weights import effective_weights, factorize
from exporter.models.shared_copy import shared_copy
from exporter.trace.patches import patch_for_tracing
from runtime.bundle import InputEntry
from tests.exporter.models.test_peft_models import reference, task
from tests.helpers.support_models import CONFIGS
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import TRANSFORMERS_5, TUNERS, answer, config, peft_model, scramble, tuned_model, tuner

KINDS = [kind.value for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING]
# Some types and the form of their layers: a weight per adapter, or the layer's own weight and two factors.
FORMS = {
    **dict.fromkeys(("LOHA", "LOKR", "OFT", "HIRA"), "dense"),
    **dict.fromkeys(("ADALORA", "MISS", "DELORA", "VBLORA"), "down"),
}


def prefix_reference(model: Any, name: str, feeds: Mapping[str, np.ndarray], drop: int) -> np.ndarray:
    """The layers of BERT one by one, the lowest ones without the prefix; positions start after it."""
    model.set_adapter(name)
    bert, ids = model.get_base_model().bert, torch.from_numpy(feeds["input_ids"])
    tokens = model.peft_config[name].num_virtual_tokens
    with torch.no_grad():
        cache = model.get_prompt(batch_size=len(ids))
        segments = torch.from_numpy(feeds["token_type_ids"])
        hidden = bert.embeddings(ids, token_type_ids=segments, past_key_values_length=tokens)
        mask = (1.0 - torch.from_numpy(feeds["attention_mask"])[:, None, None].float()) * torch.finfo(torch.float32).min
        for number, layer in enumerate(bert.encoder.layer):
            if number < drop:
                hidden = layer(hidden, mask)[0]
            else:
                hidden = layer(hidden, nn.functional.pad(mask, (tokens, 0)), past_key_values=cache)[0]
        logits: np.ndarray = model.get_base_model().classifier(bert.pooler(hidden)).numpy()
    return logits


def expected(model: Any, name: str, feeds: dict[str, np.ndarray], drop: int) -> np.ndarray:
    kind = model.peft_config[name].peft_type.value
    return prefix_reference(model, name, feeds, drop) if kind in PREFIXES else reference(model, name, feeds, drop)


def test_every_type_is_known() -> None:
    assert sorted(KINDS) == sorted([*TUNERS, *REFUSED])


def assert_as_in_the_library(model: Any, feeds: dict[str, np.ndarray], drop: int, names: Sequence[str]) -> Any:
    """Prune and patch a model for its adapters, compare the results of each, and return the patched model."""
    tasks = [task(name, drop) for name in names]
    structures = [structure_of(model, name, name, drop) for name in names]
    assert structures[1:] == structures[:-1]
    pruned = shared_copy(model)
    prune(pruned, tasks)
    patched = shared_copy(pruned)
    patch_for_tracing(patched)
    assert all(f".{names[0]}" in key for key in task_weights(patched, tasks))
    wanted = {name: expected(model, name, feeds, drop) for name in names}
    assert len(names) == 1 or np.abs(wanted[names[0]] - wanted[names[1]]).max() > 1e-3
    for each in tasks:
        for copy in (pruned, patched):
            activate(copy, each)
            assert_parity(answer(copy, feeds).logits.numpy(), wanted[each.name])
    assert set(range(drop)) <= set(layers_without_adapter(pruned, tasks[0]))
    return patched


@pytest.mark.parametrize("kind", TUNERS)
def test_results_of_the_library(kind: str) -> None:
    if kind in PREFIXES and TRANSFORMERS_5:
        pytest.skip("PEFT 0.21 has no prefixes for BERT of transformers 5")
    model, feeds = tuned_model(kind), inputs((4, 11))
    feeds["input_ids"][:, 1] = 5  # a trainable token
    for drop in (0, 2):
        patched = assert_as_in_the_library(model, feeds, drop, ("first", "second"))
        layers = [layer for layer in patched.modules() if isinstance(layer, Folded)]
        assert all(hasattr(layer, FORMS[kind]) for layer in layers if kind in FORMS)
        assert layers or kind not in FORMS


LORAS: dict[str, dict[str, Any]] = {
    "parameters": {"target_modules": [], "target_parameters": ["query.weight", "output.dense.weight"]},
    "tokens": {"trainable_token_indices": [5, 7]},
    "groups": {"use_qalora": True, "qalora_group_size": 4},
    "blocks": {"use_bdlora": BdLoraConfig(nblocks=2, target_modules_bd_a=["query"], target_modules_bd_b=["dense"])},
    "mica": {"init_lora_weights": "mica"},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["value"], "lora_bias": True},
    "norms": {"modules_to_save": ["LayerNorm"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("name", LORAS)
def test_options_of_lora(name: str) -> None:
    settings = {"task_type": "SEQ_CLS", "r": 4, "target_modules": ["query", "output.dense"], **LORAS[name]}
    model = peft_model(peft.LoraConfig(**settings), ("first", "second"))
    feeds = inputs((4, 11))
    feeds["input_ids"][:, 1] = 5
    assert_as_in_the_library(model, feeds, 1, ("first", "second"))


def test_adapters_of_two_types_on_one_layer() -> None:
    base = BertForSequenceClassification(config())
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"]), "lora", mixed=True)
    model.add_adapter("loha", peft.LoHaConfig(r=2, target_modules=["query", "value"]))
    scramble(model, "lora_", "hada_")
    for name in ("lora", "loha"):
        assert_as_in_the_library(model, inputs((4, 11)), 1, (name,))


def small(name: str, head: str, **settings: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(**{**CONFIGS[name], **settings})
    return getattr(transformers, f"{name}For{head}")(config)


def test_layers_of_gpt2_and_embeddings() -> None:
    feeds = {key: value for key, value in inputs((3, 9)).items() if key != "token_type_ids"}
    feeds["input_ids"] %= 60
    names = ("first", "second")
    conv = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    model = tuned_model("FOURIERFT", small("GPT2", "SequenceClassification"), names, **conv)
    assert_as_in_the_library(model, feeds, 0, names)
    tables = tuned_model("OFT", small("Bert", "SequenceClassification"), names, target_modules=["word_embeddings"])
    assert_as_in_the_library(tables, feeds, 0, names)
    assert has_adapted_embeddings(tables)
    assert not has_adapted_embeddings(model)


@pytest.mark.parametrize("kind", ["LOHA", "BOFT", "HRA", "LORA"])
def test_convolutions(kind: str) -> None:
    model = tuned_model(kind, small("ViT", "ImageClassification"), task_type=None, target_modules=["projection"])
    with torch.no_grad():
        for key, parameter in model.named_parameters():  # the base model's head hides small changes
            if key.endswith("classifier.weight"):
                parameter.mul_(20)
    feeds = {"pixel_values": np.random.default_rng(0).standard_normal((3, 3, 12, 12), dtype=np.float32)}
    patched = assert_as_in_the_library(model, feeds, 0, ("first", "second"))
    assert any(isinstance(layer, FoldedConv) for layer in patched.modules()) == (kind != "LORA")


@pytest.mark.parametrize("settings", [{"groups": 4}, {"dilation": 2, "padding": 3}, {"stride": 2, "bias": False}])
def test_kernels_of_convolutions(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    base = nn.Conv2d(8, 12, (3, 2), **settings)
    layer = LoHaConv2d(base, "a", LoHaConfig(r=2, init_weights=False), r=2, alpha=4, init_weights=False)
    found = effective_weights(layer, ["a"])
    assert found is not None
    weight, bias = found["a"]
    layer.merge()
    torch.testing.assert_close(weight.float(), base.weight)
    assert (bias is None) == (base.bias is None)
    assert bias is None or torch.allclose(bias.float(), vars(base)["_parameters"]["bias"])


VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 12}
IMAGES = {"pixel_values": np.random.default_rng(0).standard_normal((3, 3, 12, 12), dtype=np.float32)}


def test_lora_on_the_attention_of_torch() -> None:
    config = transformers.SiglipConfig(vision_config={**VISION, "patch_size": 4}, num_labels=3)
    base = transformers.SiglipForImageClassification(config)
    model = tuned_model("LORA", base, task_type=None, target_modules=["attention"], modules_to_save=["classifier"])
    attention = base.vision_model.head.attention
    patched = assert_as_in_the_library(model, IMAGES, 0, ("first", "second"))
    assert type(attention).__name__ == "MultiheadAttention"
    assert any(isinstance(layer, FoldedAttention) for layer in patched.modules())


@pytest.mark.parametrize("kind", ["LORA", "LOHA", "OFT"])
def test_a_layer_that_the_attention_of_torch_reads(kind: str) -> None:
    base = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION, patch_size=4))
    model = tuned_model(kind, base, task_type=None, target_modules=["q_proj", "out_proj"])
    patched = shared_copy(model)
    prune(patched, [task("second", 0)])
    patch_for_tracing(patched)
    activate(patched, task("second", 0))
    model.set_adapter("second")
    # The pooler reads the weight of its out_proj, which has an adapter, and does not call it.
    assert_parity(answer(patched, IMAGES).pooler_output.numpy(), answer(model, IMAGES).pooler_output.numpy())


@pytest.mark.parametrize("drop", [0, 1, 3])
def test_the_layers_of_an_encoder_decoder(drop: int) -> None:
    base = transformers.BartForSequenceClassification(
        transformers.BartConfig(**{**CONFIGS["Bart"], "encoder_layers": 2, "decoder_layers": 2}, init_std=0.2, num_labels=3)
    )
    model = tuned_model("LORA", base, target_modules=["q_proj", "fc1"], modules_to_save=["classification_head"])
    ids = np.arange(4, 16).reshape(2, 6)
    ids[:, -1] = 2  # the end of a sequence
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert_as_in_the_library(model, feeds, drop, ("first", "second"))


def test_layers_that_are_replicated() -> None:
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], layer_replication=[(0, 2), (1, 2)])
    model = peft_model(lora, ("first", "second", "third"))
    # PEFT replicates the layers again, with their adapters, when it adds one; only the last has a weight in each.
    structures = [structure_of(model, name, name, 0) for name in ("second", "third")]
    assert structures[0]["tied"]
    assert "tied" not in structures[1]
    for name in ("first", "second", "third"):
        assert_as_in_the_library(model, inputs((4, 11)), 0, (name,))


def test_factors_of_low_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(40, 3, generator=generator, dtype=torch.float64) @ torch.randn(
        3, 60, generator=generator, dtype=torch.float64
    )
    factors = factorize([low, torch.zeros_like(low)], 6)
    assert factors is not None
    assert [down.shape for down, _ in factors] == [(3, 60), (3, 60)]
    torch.testing.assert_close(factors[0][1] @ factors[0][0], low)
    assert not factors[1][0].any()
    assert factorize([low, torch.randn(40, 60, generator=generator, dtype=torch.float64)], 6) is None
    assert factorize([low], 2) is None


@pytest.mark.parametrize("kind", REFUSED)
def test_types_without_a_static_graph(kind: str) -> None:
    model = types.SimpleNamespace(peft_config={"a": types.SimpleNamespace(peft_type=kind)})
    with pytest.raises(ExportError, match=f"the adapter 'a' has the PEFT type {kind}, which has no static graph"):
        structure(model, "a", {})


def test_an_adapter_with_random_results() -> None:
    model = types.SimpleNamespace(peft_config={"a": tuner("PVERA", sample_at_inference=True)})
    with pytest.raises(ExportError, match="the adapter 'a' sets sample_at_inference, with which its results are random"):
        structure(model, "a", {})


def test_prompts_take_positions_of_texts() -> None:
    entries = [InputEntry("input_ids", "int64", ("batch", "sequence"), 10)]
    model = tuned_model("PROMPT_TUNING")
    whole = max_lengths(model.get_base_model(), None, entries)["sequence"]
    assert max_lengths(model, None, entries) == {"sequence": whole - 3}


def test_names_of_layers() -> None:
    assert is_layer("bert.encoder.layer.1")
    assert not is_layer("bert.encoder.layer.1.attention")
    assert not is_layer("bert.embeddings")
