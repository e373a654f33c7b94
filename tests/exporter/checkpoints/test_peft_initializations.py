"""Adapters of LoRA that were trained on changed base weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from exporter.checkpoints.peft_adapters import load_peft
from exporter.checkpoints.peft_reference import References
from exporter.models.peft import activate
from tests.exporter.models.test_peft_biases import base, saved
from tests.exporter.models.test_peft_models import task
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import answer

TARGETS = ["query", "output.dense"]
STARTS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora", "bias": "all"},
    "patterns": {"init_lora_weights": "pissa", "rank_pattern": {"query": 2}, "alpha_pattern": {"dense": 3}},
    "rslora": {"init_lora_weights": "olora", "use_rslora": True, "rank_pattern": {"query": 2}},
    "dora": {"init_lora_weights": "pissa", "use_dora": True},
    "embeddings": {"init_lora_weights": "pissa", "target_modules": ["query", "word_embeddings"]},
    "plain": {"target_modules": ["key"]},
}


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA")  # about converting the adapter
def test_starts_that_can_be_computed_again(tmp_path: Path) -> None:
    sources = {
        name: saved(
            tmp_path / name, seed, peft.LoraConfig(**{"task_type": "SEQ_CLS", "r": 4, "target_modules": TARGETS, **settings})
        )
        for seed, (name, settings) in enumerate(STARTS.items())
    }
    own, feeds = base(), inputs((4, 11))
    before = {key: tensor.clone() for key, tensor in own.state_dict().items()}
    references = References()
    references.add(own, sources)
    expected = {name: answer(references(name), feeds).logits.numpy() for name in sources}
    assert all(tensor.equal(before[key]) for key, tensor in own.state_dict().items())
    model = load_peft(own, sources)
    for name in sources:
        library = peft.PeftModel.from_pretrained(base(), sources[name]).eval()
        assert_parity(expected[name], answer(library, feeds).logits.numpy())
        activate(model, task(name))
        assert_parity(answer(model, feeds).logits.numpy(), expected[name])


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4"])
def test_converted_adapters(start: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"r": 4, "target_modules": TARGETS, "init_lora_weights": start}
    model: Any = peft.get_peft_model(base(), peft.LoraConfig(**settings))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(tmp_path / "first"))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about its own call
        model.save_pretrained(str(tmp_path / "a"), path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    feeds = inputs((4, 11))
    loaded = load_peft(base(), {"a": tmp_path / "a"})
    assert_parity(answer(loaded, feeds).logits.numpy(), answer(model.eval(), feeds).logits.numpy())
