"""The LoRA adapters of the bundled example: the short forward pass equals the model, and a run is saved as PEFT loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from tests.helpers.tiny_models import LAYERS, bert_config, tokenizer
from training import lora
from training.batches import encode
from training.corpora import Example
from training.tasks import TaskSpec

TASK = TaskSpec("topics", "classification", "test", 16, 4)
LABELS = ["x", "y"]


def _base() -> Any:
    torch.manual_seed(1)
    return BertForSequenceClassification(bert_config(len(tokenizer())))


def test_a_task_is_trained_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "LAYER", LAYERS - 1)
    words = tokenizer()
    texts = [Example("one word", "x", ""), Example("a few more words than that", "y", ""), Example("two words", "x", "")]
    model = lora.add_lora(_base(), "default")
    prepared = lora.prepare(model, words, TASK, encode(TASK, words, texts, LABELS))
    head = _head(model).weight.clone()
    lora.fit_lora(model, TASK, prepared * 8, 0, tmp_path / "checkpoint.pt")
    assert not torch.equal(head, _head(model).weight)

    lora.save_lora(model, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / lora.WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {name.partition(".layer.")[2][:1] for name in stored if "lora_" in name} == {str(LAYERS - 1)}
    again: Any = peft.PeftModel.from_pretrained(_base(), str(tmp_path / "saved")).eval()
    inputs = words([str(example.text) for example in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = again(**inputs).logits
        # The examples are in the order of their lengths.
        assert torch.allclose(lora.logits_of(again, prepared), expected[[0, 2, 1]], atol=1e-6)
        with again.disable_adapter():
            base: Any = again.get_base_model()
            bare = base.bert(**inputs).pooler_output
        bare = _head(again)(bare)
        assert torch.allclose(lora.logits_of(again, prepared, with_adapter=False), bare[[0, 2, 1]], atol=1e-6)
    scores = lora.lora_scores(again, prepared)
    assert len(scores) == LAYERS + 1
    assert scores[:LAYERS] == [scores[0]] * LAYERS


def _head(model: Any) -> Any:
    """The classifier that is trained with the adapter."""
    return model.get_base_model().classifier.modules_to_save["default"]


def test_the_tasks_are_those_of_the_example() -> None:
    assert len(lora.LORA_TASKS) == 4
    assert {task.kind for task in lora.LORA_TASKS} == {"classification"}
