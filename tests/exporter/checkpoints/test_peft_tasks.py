"""Adapters of PEFT of several task types, classes and tuners on one base, against `PeftModel.from_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from exporter import export
from exporter.checkpoints.load import Checkpoint, load
from exporter.errors import ExportError, VerificationError
from exporter.models.mixed import MixedModel
from exporter.plan import Plan
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from runtime.bundle import OUTPUTS
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import config, scramble

LORA: dict[str, Any] = {"r": 4, "target_modules": ["query"]}
SCALED = peft.IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[])
# Name -> class, labels, configuration of PEFT.
ADAPTERS: dict[str, tuple[str, int, Any]] = {
    "sentiment": ("BertForSequenceClassification", 3, peft.LoraConfig(task_type="SEQ_CLS", **LORA)),
    "entailment": ("BertForSequenceClassification", 2, peft.LoraConfig(task_type="SEQ_CLS", **LORA)),
    "plain": ("BertForSequenceClassification", 2, peft.LoraConfig(modules_to_save=["classifier"], **LORA)),
    "scaled": ("BertForSequenceClassification", 2, SCALED),
    "names": ("BertForTokenClassification", 5, peft.LoraConfig(task_type="TOKEN_CLS", **LORA)),
    "projected": ("BertForTokenClassification", 2, peft.VeraConfig(task_type="TOKEN_CLS", projection_prng_key=3, **LORA)),
    "other_key": ("BertForTokenClassification", 2, peft.VeraConfig(task_type="TOKEN_CLS", projection_prng_key=4, **LORA)),
    "answers": ("BertForQuestionAnswering", 2, peft.LoraConfig(task_type="QUESTION_ANS", **LORA)),
    "choices": ("BertForMultipleChoice", 2, peft.LoraConfig(modules_to_save=["classifier"], **LORA)),
    "features": ("BertModel", 2, peft.LoraConfig(task_type="FEATURE_EXTRACTION", **LORA)),
    "masks": ("BertForMaskedLM", 2, peft.LoraConfig(**LORA)),
}
EXPORTED = ("scaled", "choices", "features")


def base(folder: Path, name: str) -> Any:
    kind, labels, _ = ADAPTERS[name]
    return getattr(transformers, kind).from_pretrained(folder / "base", num_labels=labels).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base and each adapter."""
    folder = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    transformers.BertForPreTraining(config(initializer_range=0.2)).save_pretrained(folder / "base")
    for number, (name, (_, _, settings)) in enumerate(ADAPTERS.items()):
        torch.manual_seed(number)
        scramble(peft.get_peft_model(base(folder, name), settings)).save_pretrained(folder / name)
    labels = {label: number for number, label in enumerate(("O", "PER", "LOC", "ORG", "MISC"))}
    (folder / "names" / "config.json").write_text(json.dumps({"label2id": labels}))
    return folder


def loaded(folder: Path, *names: str) -> Checkpoint:
    return load(folder / "base", False, adapters=[f"{name}={folder / name}" for name in names])


def expected(folder: Path, name: str, feeds: dict[str, np.ndarray], drop: int = 0) -> list[np.ndarray]:
    """The outputs of PEFT's own model, in which the adapters of the dropped layers are disabled."""
    model = peft.PeftModel.from_pretrained(base(folder, name), folder / name).eval()
    for path, module in model.named_modules():
        if any(f".layer.{layer}." in path for layer in range(drop)) and hasattr(module, "enable_adapters"):
            module.enable_adapters(False)
    given = {key: torch.from_numpy(value) for key, value in feeds.items()}
    if name == "choices":
        given = {key: value[:, None] for key, value in given.items()}
    with torch.no_grad():
        output = model(**given)
    fields = {"answers": OUTPUTS["question_answering"], "features": OUTPUTS["hidden_states"]}.get(name, ("logits",))
    return [output[field].numpy() for field in fields]


def test_every_task_of_a_mixed_model(saved: Path) -> None:
    checkpoint = loaded(saved, *ADAPTERS)
    assert isinstance(checkpoint.model, MixedModel)
    plan = make_plan(checkpoint, None, 0)
    assert [task.name for task in plan.tasks] == list(ADAPTERS)
    compare_with_library(checkpoint, plan)
    assert len(plan.groups) == len(ADAPTERS) - 1
    assert plan.groups[0] == plan.tasks[:2]
    labels = {task.name: task.head.labels for task in plan.tasks}
    assert labels["names"] == ("O", "PER", "LOC", "ORG", "MISC")
    assert len(labels["sentiment"]) == 3
    groups = prune(checkpoint.model, plan)
    feeds = inputs((3, 6))
    for group in groups:
        for task in group.tasks:
            for one, other in zip(eager(group, plan, task, feeds), expected(saved, task.name, feeds), strict=True):
                assert_parity(one, other)
    embeddings = {group.model.get_input_embeddings().weight.data_ptr() for group in groups}
    assert len(embeddings) == 1


def test_an_export_of_mixed_heads(saved: Path, tmp_path: Path) -> None:
    adapters = [f"{name}={saved / name}" for name in EXPORTED]
    report = export(saved / "base", False, adapters=adapters, drop=1, output=tmp_path / "onnx")
    assert [task.head for task in report.tasks] == ["classification", "multiple_choice", "hidden_states"]
    assert report.variants[0].shared == "embeddings, layer 0, layer 1 up to its first adapter"
    feeds = inputs((5, 4))
    for name, found in run_graph(tmp_path / "onnx", feeds).items():
        assert_parity(found, expected(saved, name, feeds, drop=1)[0])


def test_token_types_of_questions_are_dropped_as_by_the_library(saved: Path) -> None:
    checkpoint = loaded(saved, "answers")
    plan: Plan = make_plan(checkpoint, None, 0)
    feeds = inputs((2, 5))
    other = {**feeds, "token_type_ids": 1 - feeds["token_type_ids"]}
    (group,) = prune(checkpoint.model, plan)
    for one, two in zip(eager(group, plan, plan.tasks[0], feeds), eager(group, plan, plan.tasks[0], other), strict=True):
        assert np.array_equal(one, two)


def test_a_wrongly_loaded_adapter_is_found(saved: Path) -> None:
    checkpoint = loaded(saved, "sentiment", "names")
    plan = make_plan(checkpoint, None, 0)
    with torch.no_grad():
        next(p for name, p in checkpoint.model.named_parameters() if "lora_B.names" in name).add_(0.5)
    with pytest.raises(VerificationError, match=r"differ from those that PEFT itself loads .*\n  names: max"):
        compare_with_library(checkpoint, plan)


def test_a_task_with_another_name_has_the_head_of_its_adapter(saved: Path) -> None:
    plan = make_plan(loaded(saved, "entailment", "sentiment"), {"first": "sentiment"}, 0)
    assert len(plan.tasks[0].head.labels) == 3


def test_lora_on_the_classifier(saved: Path, tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(saved / "base")
    model.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=2, target_modules=["query", "classifier"])
    scramble(peft.get_peft_model(model, settings)).save_pretrained(tmp_path / "adapter")
    checkpoint = load(tmp_path / "base", False, adapters=[str(tmp_path / "adapter")])
    compare_with_library(checkpoint, make_plan(checkpoint, None, 0))


def test_live_models_of_one_trunk(saved: Path) -> None:
    one, two = (peft.PeftModel.from_pretrained(base(saved, name), saved / name, name) for name in ("sentiment", "answers"))
    plan = make_plan(load([one, two], False), None, 0)
    assert [task.head.kind for task in plan.tasks] == ["classification", "question_answering"]
    again = peft.PeftModel.from_pretrained(base(saved, "sentiment"), saved / "sentiment", "answers")
    with pytest.raises(ExportError, match="two models have an adapter 'answers'"):
        load([again, two], False)
    smaller = transformers.BertModel(config(num_hidden_layers=1))
    with pytest.raises(ExportError, match=r"different trunks: num_hidden_layers is 2 in .* and 1 in BertModel"):
        load([one, peft.get_peft_model(smaller, peft.LoraConfig(**LORA), "small")], False)


def test_a_damaged_adapter_of_several(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    (folder / "adapter_config.json").write_text((saved / "names" / "adapter_config.json").read_text())
    weights = load_file(saved / "names" / "adapter_model.safetensors")
    weights.pop(next(key for key in weights if "lora_A" in key))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"the adapter 'names' in .* lacks 1 weights"):
        load(saved / "base", False, adapters=[f"{saved / 'sentiment'}", f"{folder}"])
