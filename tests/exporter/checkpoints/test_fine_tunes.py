"""Tasks without adapters: a model's own head and full fine-tunes, against the models as transformers loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import BertForSequenceClassification, BertForTokenClassification

import runtime
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.models.own_tasks import Sharing
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import answer, config, scramble

LORA: dict[str, Any] = {"r": 3, "target_modules": ["query", "output.dense"], "modules_to_save": ["classifier"]}
EXPORTED = ("adapter", "own", "merged", "other", "upper")


def changed(model: Any, *parts: str) -> Any:
    """The model with other weights wherever the name has one of the parts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in parts):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def fresh(folder: Path, kind: Any = BertForSequenceClassification, **settings: Any) -> Any:
    return kind.from_pretrained(folder / "base", ignore_mismatched_sizes=True, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    torch.manual_seed(0)
    labels = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
    BertForSequenceClassification(config(initializer_range=0.2, **labels)).save_pretrained(folder / "base")
    scramble(peft.get_peft_model(fresh(folder), peft.LoraConfig(**LORA))).save_pretrained(folder / "adapter")
    for name in ("merged", "other"):
        lora: Any = scramble(peft.get_peft_model(fresh(folder, num_labels=2 + (name == "other")), peft.LoraConfig(**LORA)))
        lora.merge_and_unload().save_pretrained(folder / name)
    changed(fresh(folder), "layer.1.", "classifier").save_pretrained(folder / "upper")
    model = fresh(folder, BertForTokenClassification, num_labels=5)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[[3, 8]] += 0.5
    changed(model, "classifier", "query.bias").save_pretrained(folder / "names")
    changed(fresh(folder, transformers.BertForQuestionAnswering, num_labels=2), "").save_pretrained(folder / "answers")
    changed(fresh(folder, transformers.BertForMaskedLM), "transform").save_pretrained(folder / "masks")
    return folder


@pytest.fixture(scope="module")
def bundle(saved: Path) -> Path:
    sources = [f"{name}={'base' if name == 'own' else saved / name}" for name in EXPORTED]
    adapters = [part for source in sources for part in ("--adapter", source)]
    arguments = ["--model", str(saved / "base"), *adapters, "--no-tokenizer", "--drop", "0,1", "--routed"]
    assert main([*arguments, "--quiet", "--json", "--output", str(saved / "onnx")]) == 0
    return saved / "onnx"


def expected(saved: Path, name: str, feeds: Mapping[str, np.ndarray], drop: int = 0) -> np.ndarray:
    """The logits of the task's own model; in dropped layers and below them, with the weights of the base model."""
    base = fresh(saved)
    model = base if name == "own" else BertForSequenceClassification.from_pretrained(saved / name)
    if name == "adapter":
        model = peft.PeftModel.from_pretrained(base, saved / name).merge_and_unload()
    known = fresh(saved).state_dict()
    below = ("embeddings.", *(f"layer.{layer}." for layer in range(drop))) if drop else ()
    model.load_state_dict({key: known[key] for key in known if any(part in key for part in below)}, strict=False)
    logits: np.ndarray = answer(model.eval(), feeds).logits.numpy()
    return logits


def test_the_graph_equals_the_models(saved: Path, bundle: Path) -> None:
    feeds = inputs((3, 9))
    for drop in (0, 1):
        predictor = runtime.load(bundle, provider="cpu", drop=drop)
        found = predictor.run(feeds)
        rows = predictor.run_routed(feeds, ["own", "merged", "upper"])
        for name in EXPORTED:
            assert_parity(found[name], expected(saved, name, feeds, drop))
        for row, name in enumerate(("own", "merged", "upper")):
            assert_parity(rows[row], expected(saved, name, feeds, drop)[row])
    assert predictor.labels["own"] == ("bad", "so so", "good")


@pytest.mark.parametrize(("name", "kind"), [("names", "tagging"), ("answers", "question_answering"), ("masks", "masked_lm")])
def test_heads_of_every_class(saved: Path, name: str, kind: str) -> None:
    """Also of other classes than the base model's, whose checkpoint then lacks a pooler or has other weights of that name."""
    checkpoint = load(saved / "base", False, ["own=base", f"{name}={saved / name}"])
    plan = make_plan(checkpoint, None, 0)
    assert [task.head.kind for task in plan.tasks] == ["classification", kind]
    compare_with_library(checkpoint, plan)
    feeds = inputs((2, 7))
    group = prune(checkpoint.model, plan)[1]
    model = getattr(transformers, type(group.model.model).__name__).from_pretrained(saved / name).eval()
    for found, field in zip(eager(group, plan, plan.tasks[1], feeds), ("start_logits", "end_logits"), strict=False):
        output = answer(model, feeds)
        assert_parity(found, output.get("logits", output.get(field)).numpy())


def test_what_is_shared(saved: Path) -> None:
    names = ("merged", "upper", "names", "answers", "masks")
    model = load(saved / "base", False, [f"{name}={saved / name}" for name in names]).model
    found = {name: task.sharing for part in model.parts for name, task in part.tasks.items()}
    trunk = len(list(fresh(saved).bert.parameters()))
    assert found["merged"] == Sharing(trunk - 6, (3,), 6)
    assert found["upper"] == Sharing(trunk - 16, (), 0, 16)
    assert found["names"] == Sharing(trunk - 2 - 3, (), 0, 3)
    assert found["masks"] == Sharing(trunk - 2)
    assert found["answers"].equal == 0
