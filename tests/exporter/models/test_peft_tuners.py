"""Every tuner of PEFT: pruned and patched for the trace, against the library with the lowest layers' adapters disabled."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora.config import BdLoraConfig
from torch import nn
from transformers import BertForSequenceClassification

from exporter.errors import ExportError
from exporter.models.binding import task_weights
from exporter.models.inputs import max_lengths
from exporter.models.peft import activate, layers_without_adapter, prune, structure_of
from exporter.models.peft_folded import Folded
from exporter.models.peft_modules import is_layer
from exporter.models.peft_structure import structure
from exporter.models.peft_types import PREFIXES, REFUSED
from exporter.prune.task_groups import shared_copy
from exporter.trace.patches import patch_for_tracing
from runtime.bundle import InputEntry
from tests.exporter.models.test_peft_models import reference, task
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import TUNERS, answer, config, peft_model, scramble, tuned_model

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


@pytest.mark.parametrize("kind", REFUSED)
def test_types_without_a_static_graph(kind: str) -> None:
    model = types.SimpleNamespace(peft_config={"a": types.SimpleNamespace(peft_type=kind)})
    with pytest.raises(ExportError, match=f"the adapter 'a' has the PEFT type {kind}, which has no static graph"):
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
