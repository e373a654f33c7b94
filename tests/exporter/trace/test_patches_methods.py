"""Every patched adapter method against the unpatched model in single-task PyTorch; test_support.py traces them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import adapters
import numpy as np
import pytest
import torch
from adapters import (
    AdapterConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    ConfigUnion,
    DiReftConfig,
    DoRAConfig,
    DvoRAConfig,
    IA3Config,
    LoRAConfig,
    LoReftConfig,
    MAMConfig,
    MTLLoRAConfig,
    NoReftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    UniPELTConfig,
    VeraConfig,
)
from torch import nn

from exporter.errors import ExportError
from exporter.models.adapterhub.merged_lora import unmerge
from exporter.trace.patches.adapterhub.methods import METHOD_PATCHES
from tests.helpers.tiny_models import add_task, bert_config, reference

_PREFIX: dict[str, Any] = {"prefix_length": 5, "bottleneck_size": 8}
# Patched and traced.
TRACED: dict[str, AdapterConfig] = {
    "compacter": CompacterConfig(reduction_factor=4, shared_W_phm=True, factorized_phm_rule=True),
    "compacter++": CompacterPlusPlusConfig(reduction_factor=4, phm_dim=2),
    "lora": LoRAConfig(r=4, alpha=6, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, use_gating=True),
    "dora": DoRAConfig(r=4, alpha=6, intermediate_lora=True, output_lora=True),
    "vera": VeraConfig(r=4, alpha=6),
    "dvora": DvoRAConfig(r=4, alpha=6),
    "ia3": IA3Config(alpha=2, output_lora=True),
    "mtl-lora": MTLLoRAConfig(r=4, alpha=6, n_up_projection=3, weights_sharpness=0.5),
    "prefix tuning": PrefixTuningConfig(**_PREFIX),
    "gated flat prefix": PrefixTuningConfig(flat=True, use_gating=True, shared_gating=False, leave_out=[0], **_PREFIX),
    "prompt tuning": PromptTuningConfig(prompt_length=4),
    "prompt after the first token": PromptTuningConfig(prompt_length=4, combine="prefix_after_bos"),
    "loreft": LoReftConfig(r=2),
    "noreft": NoReftConfig(r=2, suffix_positions=3, prefix_positions=0),
    "direft": DiReftConfig(r=2, suffix_positions=3, prefix_positions=2),
    "mam": MAMConfig(PrefixTuningConfig(**_PREFIX)),
    "unipelt": UniPELTConfig(
        PrefixTuningConfig(use_gating=True, **_PREFIX), SeqBnConfig(use_gating=True), LoRAConfig(use_gating=True)
    ),
    "union": ConfigUnion(
        LoReftConfig(r=2, suffix_positions=1),
        CompacterConfig(reduction_factor=4),
        DoRAConfig(r=4),
        PromptTuningConfig(prompt_length=3),
    ),
}
# Only compared in PyTorch: a trace of these variants would not differ from those above.
VARIANTS: dict[str, AdapterConfig] = {
    "compacter of factors": CompacterConfig(
        reduction_factor=4, factorized_phm_rule=True, shared_phm_rule=False, phm_rank=2, phm_bias=False
    ),
    "compacter of full matrices": CompacterConfig(reduction_factor=4, factorized_phm_W=False, shared_phm_rule=False),
    "gated vera": VeraConfig(r=4, use_gating=True, dropout=0.1),
    "gated ia3": IA3Config(use_gating=True),
    "gated mtl-lora": MTLLoRAConfig(r=4, n_up_projection=2, use_gating=True),
    "tied loreft": LoReftConfig(r=2, prefix_positions=2, suffix_positions=4, tied_weights=True, non_linearity="relu"),
    "long direft": DiReftConfig(r=2, prefix_positions=3, suffix_positions=5),
    "loreft in one layer": LoReftConfig(r=2, prefix_positions=4, suffix_positions=3, layers=[1]),
}
# The traced inputs are 2 x 7.
SHAPES = ((1, 6), (5, 9), (3, 16))
SHORT = ((1, 1), (2, 2), (1, 3), (3, 4))


def _model(*tasks: tuple[str, AdapterConfig]) -> Any:
    torch.manual_seed(0)
    model = adapters.AutoAdapterModel.from_config(bert_config(layers=2))
    trunk = {id(parameter) for parameter in model.parameters()}
    for name, adapter in tasks:
        add_task(model, name, adapter, "tag")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Far from the identity; Kronecker products and products of four matrices need more.
            centre = 1.0 if name.endswith((".m.weight", "LayerNorm.weight")) else 0.0
            # A rotation is given by a matrix with a diagonal of -1 and 1: any other numbers would make it zero.
            rotation = name.endswith("weight.original")
            if (id(parameter) not in trunk and not rotation) or parameter.dim() == 1:
                parameter.normal_(centre, 0.6 if "phm_rule" in name or "W_" in name or "vera_" in name else 0.1)
    return model.eval()


def _copy(model: Any) -> Any:
    """Shares the weights with `model`, as the exporter's copies do."""
    return copy.deepcopy(model, {id(t): t for t in itertools.chain(model.parameters(), model.buffers())})


def _patched(model: Any) -> Any:
    patched = _copy(model)
    for patch in METHOD_PATCHES:
        patch(patched)
    return patched


def _feeds(shape: tuple[int, int], least: int = 6) -> dict[str, np.ndarray]:
    """Row 0 is unpadded, odd rows are padded right and even ones left. ReFT fails on texts that have not all its positions."""
    generator = np.random.default_rng(shape)
    mask = np.ones(shape, dtype=np.int64)
    for row in range(1, shape[0]):
        padding = int(generator.integers(0, max(1, shape[1] - least + 1)))
        mask[row] = np.arange(shape[1]) < shape[1] - padding if row % 2 else np.arange(shape[1]) >= padding
    ids = generator.integers(0, 101, shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": generator.integers(0, 2, shape)}


def _bound(model: Any, task: str) -> set[str]:
    """The parameters in dictionaries keyed by the task's name, which is what exporter/models/binding.py reads."""
    found: set[str] = set()
    for prefix, container in model.named_modules(remove_duplicate=False):
        if isinstance(container, nn.ModuleDict | nn.ParameterDict) and task in container:
            entry = container[task]
            names = [""] if isinstance(entry, torch.Tensor) else [name for name, _ in entry.named_parameters()]
            found.update(".".join(part for part in (prefix, task, name) if part) for name in names)
    return found


def _assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert float(np.abs(found - expected).max()) <= 1e-5


@pytest.mark.parametrize("name", [*TRACED, *VARIANTS])
def test_patches_keep_the_numbers_and_the_users_weights(name: str) -> None:
    model = _model(("task", {**TRACED, **VARIANTS}[name]))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    patched = _patched(model)
    twice = _patched(patched)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    for shape in (*SHAPES, *SHORT):
        feeds = _feeds(shape)
        expected = reference(model, "task", feeds)
        _assert_close(reference(patched, "task", feeds), expected)
        _assert_close(reference(twice, "task", feeds), expected)
    model.set_active_adapters(None)
    with torch.no_grad():
        plain = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.numpy()
    assert float(np.abs(plain - expected[:, -plain.shape[1] :]).max()) > 1e-3


def test_nothing_is_patched_that_can_be_traced() -> None:
    model = _model(("task", SeqBnConfig()), ("other", LoRAConfig()))
    before = [(name, type(module)) for name, module in model.named_modules()]
    patched = _patched(model)
    assert [(name, type(module)) for name, module in patched.named_modules()] == before
    assert not any("forward" in vars(module) for name, module in patched.named_modules() if name)


def test_matrices_that_layers_share_stay_one() -> None:
    patched = _patched(_model(("task", TRACED["compacter"])))
    ups = {id(p) for name, p in patched.named_parameters(remove_duplicate=False) if name.endswith("adapter_up.weight")}
    assert len(ups) == 1


def test_mtl_lora_that_tasks_share_is_bound_to_each() -> None:
    config = TRACED["mtl-lora"]
    model = _model(("a", config), ("b", config))
    model.share_parameters(["a", "b"])
    patched = _patched(model)
    used = {name for name in _bound(patched, "b") if name.endswith(("lora_A", "lora_B"))}
    assert len(used) == 8  # two layers, query and value
    feeds = _feeds(SHAPES[1])
    for task in ("a", "b"):
        _assert_close(reference(patched, task, feeds), reference(model, task, feeds))


@pytest.mark.parametrize("config", [LoRAConfig(r=4, alpha=6, output_lora=True), VeraConfig(r=4)], ids=["lora", "vera"])
def test_a_merged_adapter_changes_the_copy_not_the_users_model(config: AdapterConfig) -> None:
    model = _model(("a", config), ("b", config))
    feeds = _feeds(SHAPES[1])
    expected = {task: reference(model, task, feeds) for task in ("a", "b")}
    model.merge_adapter("a")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned = _copy(model)
    unmerge(pruned)
    patched = _patched(pruned)
    for task, answer in expected.items():
        _assert_close(reference(pruned, task, feeds), answer)
        _assert_close(reference(patched, task, feeds), answer)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert "a" in {getattr(module, "merged", False) for module in model.modules()}


def test_a_merged_and_deleted_adapter_belongs_to_the_trunk() -> None:
    config = LoRAConfig(r=4)
    model, expected = _model(("a", config), ("b", SeqBnConfig())), _model(("a", config), ("b", SeqBnConfig()))
    for one in (model, expected):
        one.set_active_adapters(None)
        one.merge_adapter("a")
    model.delete_adapter("a")
    unmerge(model)
    feeds = _feeds(SHAPES[0])
    for module in expected.modules():
        if hasattr(module, "merged"):
            module.merged = False
    _assert_close(reference(model, "b", feeds), reference(expected, "b", feeds))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (DoRAConfig(r=4), "a formula that differs from DoRA's"),
        (DvoRAConfig(r=4), "a formula that differs from DoRA's"),
        (IA3Config(), "not into the biases.*reset_adapter"),
        (MTLLoRAConfig(r=4), "uses a wrong formula"),
    ],
    ids=["dora", "dvora", "ia3", "mtl-lora"],
)
def test_a_merged_adapter_with_two_truths_is_refused(config: AdapterConfig, reason: str) -> None:
    model = _model(("a", config))
    model.merge_adapter("a")
    with pytest.raises(ExportError, match=f"'a' is merged.*{reason}"):
        unmerge(_copy(model))


def test_glow_is_refused_as_the_library_cannot_run_it() -> None:
    model = _model(("task", SeqBnConfig(inv_adapter="glow", inv_adapter_reduction_factor=2)))
    with pytest.raises(RuntimeError, match="must match"):
        reference(model, "task", _feeds(SHAPES[0]))
    with pytest.raises(ExportError, match="cannot run the GLOWCouplingBlock of the adapter 'task': expected"):
        reference(_patched(model), "task", _feeds(SHAPES[0]))
