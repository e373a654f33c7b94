"""States of decoders whose texts are padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

import runtime
from exporter import export
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.support_models import CONFIGS
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import tokenizer

# Rows of other lengths; 0 is padding.
_IDS = np.array([[0, 0, 0, 7, 8, 9], [11, 12, 13, 14, 15, 16], [0, 0, 0, 0, 0, 17], [0, 18, 19, 20, 21, 22]])


def _rotated() -> dict[str, Any]:
    sizes = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    return {**sizes, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 48, "pad_token_id": 0}


def _qwen3() -> PreTrainedModel:
    return Qwen3ForSequenceClassification(Qwen3Config(**_rotated(), head_dim=8))


def _llama() -> PreTrainedModel:
    return LlamaForSequenceClassification(LlamaConfig(**_rotated()))


def _gpt2() -> PreTrainedModel:
    """Positions are columns, so that the bundle pads on the right."""
    config = GPT2Config(n_layer=3, n_embd=32, n_head=4, n_positions=48, vocab_size=VOCABULARY, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def _adapted(base: PreTrainedModel, modules: list[str]) -> Any:
    """Return the model with two adapters in all layers but the lowest, so that nothing is lost at drop 1."""
    lora: dict[str, Any] = {"target_modules": modules, "layers_to_transform": [1, 2], "fan_in_fan_out": modules == ["c_attn"]}
    config = peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, r=4, **lora)
    model = peft.get_peft_model(base, config, adapter_name="one")
    model.add_adapter("two", config)
    return model.eval()


@pytest.mark.parametrize(
    ("base", "modules", "keeps", "precision"),
    [
        (_qwen3, ["q_proj", "v_proj"], True, "fp32"),
        *swept(
            (_llama, ["v_proj"], True, "int8"),
            (_llama, ["q_proj", "k_proj"], False, "fp32"),
            (_gpt2, ["c_attn"], False, "fp32"),
        ),
    ],
)
def test_a_text_has_its_logits_next_to_longer_ones(
    tmp_path: Path, base: Callable[[], PreTrainedModel], modules: list[str], keeps: bool, precision: Any
) -> None:
    """Keys that were rotated by positions without padding do not fit into a longer batch."""
    torch.manual_seed(0)
    model = _adapted(base(), modules)
    left = tokenizer()
    left.padding_side = "left"
    export(model, left, drop=1, split=True, precision=precision, output=tmp_path)
    predictor = runtime.load(tmp_path, provider="cpu", threads=1)
    assert [entry.padding_counts for entry in predictor.manifest.splits.values()] == [keeps]
    cached = runtime.load(tmp_path, provider="cpu", threads=1, state_cache=1_000_000)
    columns = [row > 0 if base is not _gpt2 else slice(None) for row in _IDS]
    feeds = {"input_ids": _IDS, "attention_mask": (_IDS > 0).astype(np.int64)}
    if base is _gpt2:  # to which BERT's tokenizer gives types
        feeds["token_type_ids"] = np.zeros_like(_IDS)
    texts = [{name: array[row : row + 1, own] for name, array in feeds.items()} for row, own in enumerate(columns)]
    states = runtime.TrunkStates.concatenate([predictor.run_trunk(text) for text in texts])
    for text in texts:
        cached.run(text)
    states.save(tmp_path / "states")
    found = [predictor.run(feeds), cached.run(feeds)]
    kept = (states, predictor.run_trunk(feeds), runtime.load_states(tmp_path / "states"))
    found += [predictor.run_branches(each) for each in kept]
    for name in ("one", "two"):
        expected = _logits(model, name, texts)
        for each in found:
            np.testing.assert_allclose(each[name], expected, atol=1e-5 if precision == "fp32" else 2e-2)


def test_padding_beyond_the_length_of_pretraining(tmp_path: Path) -> None:
    """Texts of more than 16 tokens have other frequencies, also those that are longer by their padding only."""
    torch.manual_seed(0)
    base = Qwen3ForSequenceClassification(Qwen3Config(**{**CONFIGS["Qwen3, longrope"], **_rotated()}))
    export(_adapted(base, ["v_proj"]), tokenizer(), drop=1, split=True, output=tmp_path)
    predictor = runtime.load(tmp_path, provider="cpu", threads=1)
    texts = [
        {"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in (np.arange(3, 11)[None], np.arange(3, 23)[None])
    ]
    states = runtime.TrunkStates.concatenate([predictor.run_trunk(text) for text in texts])
    for name, logits in predictor.run_branches(states).items():
        np.testing.assert_allclose(logits, np.concatenate([predictor.run(text)[name] for text in texts]), atol=1e-5)


@pytest.mark.sweep
def test_a_cascade_goes_on_to_states_that_keep_their_padding(tmp_path: Path) -> None:
    """The trunk of drop 2 ends before layer 2, and computes the rotated keys of layer 1 on its way."""
    torch.manual_seed(0)
    base = _llama()
    attention = "model.layers.{}.self_attn.{}_proj"
    modules = [attention.format(layer, name) for layer, name in ((1, "v"), (2, "q"), (2, "k"), (2, "v"))]
    config = peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, r=4, target_modules=modules)
    left = tokenizer()
    left.padding_side = "left"
    export(peft.get_peft_model(base, config).eval(), left, drop=[2, 1], split=True, output=tmp_path)
    predictor = runtime.load(tmp_path, provider="cpu", threads=1)
    assert [entry.padding_counts for entry in predictor.manifest.splits.values()] == [False, True]
    texts = ["one", "a text that is longer", "two", "a short text"]
    (expected,) = predictor.predict(texts, drop=1).values()
    (found,) = predictor.predict(texts, cascade=[(2, 1.0), (1, 0.0)], batch_size=len(texts)).values()
    for one, other in zip(expected, found, strict=True):
        assert other.drop == 1
        assert other.scores == pytest.approx(one.scores, abs=1e-5)


def _logits(model: Any, name: str, texts: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return PyTorch's logits of each text."""
    model.set_adapter(name)
    with torch.no_grad():
        rows = [model(**{name: torch.from_numpy(array) for name, array in text.items()}).logits for text in texts]
    return torch.cat(rows).numpy()
