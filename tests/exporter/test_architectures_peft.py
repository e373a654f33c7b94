"""Architectures of transformers 5; with an older version, which has code for them only on the hub, they are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from exporter import ExportError
from exporter.checkpoints.load import load
from tests.helpers.support_models import CONFIGS, Row
from tests.helpers.support_table import result
from tests.helpers.tiny_peft import tuned_model

_TARGETS = ["q_proj", "v_proj"]


def _tuned(name: str) -> Any:
    torch.manual_seed(11)
    config = getattr(transformers, f"{name}Config")(**{**CONFIGS["Qwen2"], "num_key_value_heads": 4}, num_labels=3)
    base = getattr(transformers, f"{name}ForSequenceClassification")(config)
    return tuned_model("LORA", base, ("a", "b"), target_modules=_TARGETS)


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
