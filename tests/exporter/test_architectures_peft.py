"""Architectures of transformers 5; with an older version, which has code for them only on the hub, they are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from exporter import ExportError, export
from exporter.checkpoints.load import load
from tests.helpers.support_models import CONFIGS, Row
from tests.helpers.support_table import result
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import TRANSFORMERS_5, scramble, tuned_model

_TARGETS = ["q_proj", "v_proj"]


def _tuned(name: str) -> Any:
    torch.manual_seed(11)
    config = getattr(transformers, f"{name}Config")(**{**CONFIGS["Qwen2"], "num_key_value_heads": 4}, num_labels=3)
    base = getattr(transformers, f"{name}ForSequenceClassification")(config)
    return tuned_model("LORA", base, ("a", "b"), target_modules=_TARGETS)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 5 has the weights of all experts in one parameter")
def test_adapters_of_experts(tmp_path: Path) -> None:
    """LoRA on parameters, which are no layers; a task's graph multiplies the experts of each token."""
    sizes = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    config: Any = transformers.Qwen3MoeConfig(**{**CONFIGS["Qwen3"], **sizes}, num_labels=3)
    torch.manual_seed(0)
    base: Any = transformers.Qwen3MoeForSequenceClassification(config)
    base.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=[], target_parameters=["experts.down_proj"])
    scramble(peft.get_peft_model(base, lora)).save_pretrained(tmp_path / "a")
    export(tmp_path / "base", False, adapters=[str(tmp_path / "a")], output=tmp_path / "onnx")


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4.57 has a mask of finite numbers for every model")
def test_biases_of_positions_and_rows_without_tokens(tmp_path: Path) -> None:
    """LayoutLMv3 of transformers 5 adds biases to the mask, so that such a row is a mean and not zero."""
    sizes = {"coordinate_size": 6, "shape_size": 4, "visual_embed": False, "max_2d_position_embeddings": 64, "num_labels": 3}
    torch.manual_seed(0)
    config: Any = transformers.LayoutLMv3Config(**{**CONFIGS["Bert"], **sizes})
    base: Any = transformers.LayoutLMv3ForSequenceClassification(config)
    model = tuned_model("LORA", base, ("a", "b"), target_modules=["query", "value"])
    export(model, False, output=tmp_path / "onnx")
    feeds = {**inputs((4, 9), config.vocab_size), "token_type_ids": np.zeros((4, 9), np.int64)}
    feeds["attention_mask"][1], feeds["attention_mask"][2] = 0, np.arange(9) > 4
    found = run_graph(tmp_path / "onnx", feeds)
    for name in ("a", "b"):
        model.set_adapter(name)
        with torch.no_grad():
            expected = model.eval()(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.numpy()
        assert_parity(found[name], expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("EuroBert", "eurobert"), ("NomicBert", "nomic_bert"), ("Gte", "gte"), ("JinaEmbeddingsV3", "jina_embeddings_v3")],
)
def test_native_classes(tmp_path: Path, name: str, kind: str) -> None:
    if hasattr(transformers, f"{name}Config"):
        found, routed = result(Row("PEFT lora", "single", "its own", kind, lambda: _tuned(name)))
        assert (found, routed) == ("within 1e-05", "yes")
        return
    config = {"model_type": kind, "auto_map": {"AutoModel": f"modeling.{name}Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(ExportError, match=r"cannot be loaded: .*(code|custom)"):
        load(tmp_path)
