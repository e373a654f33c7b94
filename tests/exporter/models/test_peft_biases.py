"""Biases of the base model that adapters in PEFT folders change, against PEFT, which loads them into the base model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM, BertForSequenceClassification
from transformers.models.squeezebert.modeling_squeezebert import SqueezeBertLayerNorm

from exporter.checkpoints.peft_adapters import load_peft
from exporter.checkpoints.peft_reference import References
from exporter.errors import ExportError
from exporter.models.binding import task_weights
from exporter.models.peft import activate, layers_without_adapter, prune, structure_of, without_adapters
from exporter.models.peft_biases import add_biases
from exporter.models.peft_folded import Folded, activate_folded
from exporter.models.shared_copy import shared_copy
from exporter.trace.patches import patch_for_tracing
from tests.exporter.models.test_peft_models import task
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import answer, config, scramble, tuner

KINDS = {
    "LORA": "lora_only",
    "VERA": "vera_only",
    "OFT": "oft_only",
    "HRA": "hra_only",
    "MISS": "MiSS_only",
    "FOURIERFT": "fourier_only",
}


def base(kind: Any = BertForSequenceClassification) -> Any:
    torch.manual_seed(1)
    return kind(config(num_hidden_layers=3))


def saved(folder: Path, seed: int, settings: Any, kind: Any = BertForSequenceClassification) -> Path:
    model = peft.get_peft_model(base(kind), settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def library(folder: Path, drop: int, kind: Any = BertForSequenceClassification) -> Any:
    """PEFT's own model; adapters and biases of the lowest layers are those of the base model."""
    model, plain = peft.PeftModel.from_pretrained(base(kind), folder).eval(), dict(base(kind).named_parameters())
    lowest = [f".layer.{number}." for number in range(drop)]
    for path, module in model.named_modules():
        if any(layer in f"{path}." for layer in lowest) and hasattr(module, "enable_adapters"):
            module.enable_adapters(False)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            own = key.removeprefix("base_model.model.").replace(".base_layer", "")
            if any(layer in key for layer in lowest) and own in plain:
                parameter.copy_(plain[own])
    return model


@pytest.mark.parametrize(("bias", "drop"), [("all", 2), ("only", 0), *swept(("all", 0), ("only", 2))])
@pytest.mark.parametrize("kind", ["LORA", "OFT", *swept(*(kind for kind in KINDS if kind not in ("LORA", "OFT")))])
def test_each_adapter_has_its_biases(kind: str, bias: str, drop: int, tmp_path: Path) -> None:
    settings = {"bias": KINDS[kind] if bias == "only" else bias}
    sources = {name: saved(tmp_path / name, seed, tuner(kind, **settings)) for seed, name in enumerate(("one", "two"))}
    sources["plain"] = saved(tmp_path / "plain", 2, tuner(kind))
    own = base()
    references = References()
    references.add(own, sources)
    model, feeds = load_peft(own, sources), inputs((4, 11))
    one, two, plain = (structure_of(model, name, name, drop) for name in sources)
    assert one == two != plain
    pruned = shared_copy(model)
    prune(pruned, tasks := [task(name, drop) for name in ("one", "two")])
    patched = shared_copy(pruned)
    patch_for_tracing(patched)
    assert any("biases" in key or "copies" in key for key in task_weights(patched, tasks))
    for each in tasks:
        expected = answer(library(sources[each.name], drop), feeds).logits.numpy()
        if not drop:
            assert_parity(answer(references(each.name), feeds).logits.numpy(), expected)
        for found in (pruned, patched):
            activate(found, each)
            assert_parity(answer(found, feeds).logits.numpy(), expected)
    assert set(range(drop)) <= set(layers_without_adapter(pruned, tasks[0]))
    with without_adapters(model, tasks[0]):
        assert_parity(answer(model, feeds).logits.numpy(), answer(base().eval(), feeds).logits.numpy())
    # The references, too, left the weights of the base model as they are.
    activate(model, task("plain"))
    assert_parity(answer(model, feeds).logits.numpy(), answer(library(sources["plain"], 0), feeds).logits.numpy())


def test_biases_of_a_language_model_are_tied(tmp_path: Path) -> None:
    folder = saved(tmp_path, 0, peft.LoraConfig(r=4, target_modules=["query"], bias="all"), BertForMaskedLM)
    model, feeds = load_peft(base(BertForMaskedLM), {"a": folder}), inputs((3, 7))
    activate(model, task("a"))
    assert_parity(answer(model, feeds).logits.numpy(), answer(library(folder, 0, BertForMaskedLM), feeds).logits.numpy())


def test_biases_that_a_model_reads_without_a_call() -> None:
    """Torch's attention reads those of its last layer."""
    model, x, changes = nn.Sequential(nn.Identity(), _Pooling().eval()), torch.randn(2, 3, 8), torch.randn(2, 8)
    names = ("1.attention.in_proj_bias", "1.attention.out_proj.bias")
    own = dict(model.named_parameters())
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in zip(names, (torch.cat([changes[0]] * 3), changes[1]), strict=True):
            expected.get_parameter(name).add_(change)
        add_biases(model, {"a": {name: expected.get_parameter(name).clone() for name in own if name in names}})
        for module in model.modules():
            if isinstance(module, Folded):
                module.active = "a"
        np.testing.assert_allclose(model(x), expected(x), atol=1e-6)


class _Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.attention(x, x, x)[0]
        return found


class _Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(x))
        return found


def test_biases_of_convolutions() -> None:
    torch.manual_seed(0)
    model: Any = _Convolutions().eval()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["second"]), model, "a")
    scramble(model)
    x, bias = torch.randn(2, 4, 9), torch.randn(4)
    with torch.no_grad():
        plain = model(x)
        moved = plain + model.second(bias[:, None].expand(-1, 3)[None]) - model.second(torch.zeros(1, 4, 3))
        add_biases(model, {"a": {"first.bias": bias + model.first.bias}})
        model.first.active = "a"
        np.testing.assert_allclose(model(x), moved, atol=1e-5)
    with pytest.raises(ExportError, match="change the bias of second, a Conv1d that they adapt"):
        add_biases(model, {"a": {"second.bias": bias}})


def test_norms_with_other_axes() -> None:
    """The features of SqueezeBERT's norms, which have a separate class, are on axis 1."""
    torch.manual_seed(0)
    norm = SqueezeBertLayerNorm(6)
    model, x, bias = nn.ModuleDict({"norm": norm}), torch.randn(2, 6, 5), torch.randn(6)
    add_biases(model, {"a": {"norm.bias": bias}})
    activate_folded(model.modules(), "a")
    found = model["norm"](x)
    with torch.no_grad():
        torch.testing.assert_close(found, norm(x) + bias[:, None])
