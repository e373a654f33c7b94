"""Adapters without an effect are found, and inputs that a task does not read are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import peft
import torch
from adapters import LoRAConfig
from transformers import BertForQuestionAnswering

from exporter import export
from exporter.checkpoints.load import Checkpoint
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.traced_group import TracedGroup
from exporter.verify.effect import tasks_without_effect
from tests.helpers.tiny_models import LAYERS, tiny_model
from tests.helpers.tiny_peft import config, peft_model


def without_effect(model: Any, drop: int = 0) -> tuple[str, ...]:
    plan = make_plan(Checkpoint(model, None, "model"), None, drop)
    return tasks_without_effect(prune(model, plan), plan)


def test_an_untrained_adapter_of_the_adapters_library() -> None:
    model = tiny_model({"trained": (LoRAConfig(r=4), "2"), "none": (LoRAConfig(r=4), "2")})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1 if "trained" in name else 0.0)
    model.set_active_adapters("trained")
    assert without_effect(model) == ("none",)
    assert without_effect(model, LAYERS) == ()
    assert model.adapters_config.active_setup.last() == "trained"


def test_the_notes_of_an_export(tmp_path: Path) -> None:
    lora = peft.LoraConfig(task_type="QUESTION_ANS", target_modules=["query"])
    model = peft_model(lora, ["trained"], BertForQuestionAnswering(config()))
    model.add_adapter("none", lora)
    report = export(model, output=tmp_path / "onnx")
    assert report.variants[0].notes == (
        "trained, none do not read token_type_ids: PeftModelForQuestionAnswering does not pass it to the model, nor did it in "
        "training",
        "suspicious: none gives the same logits without an adapter; check that its adapter is trained",
    )


def test_unread_inputs_of_a_graph() -> None:
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2] a, float[2] b) => (float[2] c) { c = Neg (a) }'
    )
    assert TracedGroup(("task",), graph, {}).unread == ("b",)
