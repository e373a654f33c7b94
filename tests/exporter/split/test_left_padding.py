"""States of decoders whose texts are padded on the left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

import runtime
from exporter import export
from tests.helpers.tiny_models import tokenizer


@pytest.mark.parametrize("cache", [None, 1_000_000])
def test_a_text_has_its_logits_in_longer_company(tmp_path: Path, cache: int | None) -> None:
    """Keys that were rotated by positions without padding do not fit into a longer batch."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8}
    config = Qwen3Config(**sizes, num_key_value_heads=2, vocab_size=30522, max_position_embeddings=48, pad_token_id=0)
    base = Qwen3ForSequenceClassification(config)
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(base, lora).eval()
    left = tokenizer()
    left.padding_side = "left"
    export(model, left, drop=1, split=True, output=tmp_path)
    predictor = runtime.load(tmp_path, provider="cpu", threads=1, state_cache=cache)
    ids = np.array([[0, 0, 0, 7, 8, 9], [11, 12, 13, 14, 15, 16]])
    short = {"input_ids": ids[:1, 3:], "attention_mask": np.ones((1, 3), np.int64)}
    (expected,) = predictor.run(short).values()
    (found,) = predictor.run({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}).values()
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
