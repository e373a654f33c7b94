"""PEFT LoRA adapters that differ in size are one batch, and equal to PEFT's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import BertForSequenceClassification

from exporter import export
from exporter.models.quiet_libraries import quiet
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import config, scramble

CONFIGS: dict[str, dict[str, Any]] = {
    "large": {"r": 8},
    "scaled": {"r": 4, "lora_alpha": 32, "use_rslora": True},
    "one module": {"r": 4, "target_modules": ["query"]},
    "patterns": {"r": 4, "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}},
    "dora": {"r": 2, "use_dora": True},
    "deeper": {"r": 4, "layers_to_transform": [1, 2]},
}


def _model() -> Any:
    torch.manual_seed(0)
    base = BertForSequenceClassification(config(num_hidden_layers=3))
    model: Any = None
    for name, settings in CONFIGS.items():
        lora = peft.LoraConfig(task_type="SEQ_CLS", **{"target_modules": ["query", "value"], **settings})
        with quiet():
            if model is None:
                model = peft.get_peft_model(base, lora, name)
            else:
                model.add_adapter(name, lora)
    return scramble(model)


def test_lora_of_other_sizes_is_one_batch(tmp_path: Path) -> None:
    model = _model()
    report = export(model, routed=True, output=tmp_path / "onnx").variants[0]
    group = {task.name: task.group for task in report.tasks}
    assert len({group[name] for name in ("large", "scaled", "one module", "patterns")}) == 1
    # Another formula, and a shared trunk that would get shorter.
    assert len({group["large"], group["dora"], group["deeper"]}) == 3
    for shape in ((3, 7), (1, 19)):
        feeds = inputs(shape)
        found = run_graph(tmp_path / "onnx", feeds)
        for name in CONFIGS:
            model.set_adapter(name)
            with torch.no_grad():
                expected = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.numpy()
            assert_parity(found[name], expected)
