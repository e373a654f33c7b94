"""Every bottleneck configuration and architecture that this version supports, against single-task PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from adapters import AdapterPlusConfig, BnConfig, DoubleSeqBnConfig, ParBnConfig, SeqBnConfig, SeqBnInvConfig
from tiny_models import MAX_LENGTH, assert_parity, inputs, reference, run_graph, tiny_model
from transformers import AlbertConfig, DistilBertConfig, ElectraConfig, PretrainedConfig, RobertaConfig

from exporter import export

CONFIGS: dict[str, BnConfig] = {
    "gated": SeqBnConfig(use_gating=True),
    "own norms": SeqBnConfig(ln_before=True, ln_after=True),
    "scale per channel": DoubleSeqBnConfig(scaling="channel"),
    "learned scale": ParBnConfig(scaling="learned"),
    "residual orders": SeqBnConfig(residual_before_ln=False, adapter_residual_before_ln=True, ln_after=True),
    "no norms": SeqBnConfig(original_ln_before=False, original_ln_after=False),
    "adapter plus": AdapterPlusConfig(stochastic_depth=0.0),
    "invertible": SeqBnInvConfig(),
    "swish": SeqBnConfig(non_linearity="swish", reduction_factor=4),
    "gelu": DoubleSeqBnConfig(non_linearity="gelu"),
    "leave out": SeqBnConfig(leave_out=[0, 2]),
    "factors by layer": SeqBnConfig(reduction_factor={"1": 8, "default": 4}),
    "parallel twice": ParBnConfig(mh_adapter=True, ln_before=True, use_gating=True),
}
SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 101,
    "max_position_embeddings": MAX_LENGTH,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "roberta": RobertaConfig(**SMALL),
    "distilbert": DistilBertConfig(
        n_layers=3, dim=32, n_heads=4, hidden_dim=64, vocab_size=101, max_position_embeddings=MAX_LENGTH
    ),
    "electra": ElectraConfig(embedding_size=16, **SMALL),
    "albert": AlbertConfig(embedding_size=16, num_hidden_groups=3, **SMALL),
}


def _check(model: Any, folder: Path, drop: int, segments: bool = True) -> None:
    export(model, drop=drop, output=folder)
    for shape in ((1, 3), (6, 10)):
        feeds = inputs(shape, segments=segments)
        for task, answer in run_graph(folder, feeds).items():
            assert_parity(answer, reference(model, task, feeds, drop))


@pytest.mark.parametrize("name", CONFIGS)
def test_bottleneck_configurations(name: str, tmp_path: Path) -> None:
    _check(tiny_model({"a": (CONFIGS[name], "2"), "b": (CONFIGS[name], "3")}), tmp_path / "onnx", drop=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "reg")}, ARCHITECTURES[name])
    segments = getattr(model.config, "type_vocab_size", 0) > 1
    _check(model, tmp_path / "onnx", drop=1, segments=segments)


@pytest.mark.parametrize("drop", [0, 3])
def test_any_drop(drop: int, tmp_path: Path) -> None:
    _check(tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "tag"), "c": ("seq_bn", "2")}), tmp_path / "onnx", drop)


def test_tasks_that_differ_in_everything(tmp_path: Path) -> None:
    model = tiny_model(
        {
            "a": ("seq_bn", "2"),
            "b": (CONFIGS["invertible"], "reg"),
            "c": (CONFIGS["leave out"], "tag"),
            "d": (CONFIGS["swish"], "pooler"),
            "e": ("par_bn", "multi"),
        }
    )
    _check(model, tmp_path / "onnx", drop=1)
