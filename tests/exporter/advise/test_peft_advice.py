"""Advice on PEFT adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import BertForSequenceClassification

from exporter.advise import measurements
from exporter.advise.advise import advise
from exporter.advise.request import Request
from tests.helpers.batch_independence import left_tokenizer
from tests.helpers.tiny_models import bert_config
from tests.helpers.tiny_peft import answer, scramble

NAMES = ("one", "two")


def test_metrics_and_choice_of_peft_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "_SECONDS", 0.0)  # the times decide nothing here
    torch.manual_seed(3)
    base: Any = BertForSequenceClassification(bert_config())
    base.save_pretrained(tmp_path / "base")
    tokenizer = left_tokenizer(base)
    assert tokenizer is not None
    tokenizer.save_pretrained(tmp_path / "base")
    vocabulary = [word for word in tokenizer.get_vocab() if word != tokenizer.pad_token]
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(vocabulary, 6)) for _ in range(120)]
    evaluation, expected = {}, {}
    for name in NAMES:
        loaded = BertForSequenceClassification.from_pretrained(tmp_path / "base")
        settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
        model = scramble(peft.get_peft_model(loaded, settings))
        model.save_pretrained(str(tmp_path / name))
        encoded = {key: np.array(value) for key, value in tokenizer(texts).items()}
        ids = answer(model, encoded).logits.numpy().argmax(-1)
        labels = np.where(draw.random(len(ids)) < 0.2, 1 - ids, ids)
        expected[name] = float(np.mean(labels == ids))
        rows = [json.dumps({"text": text, "label": int(label)}) + "\n" for text, label in zip(texts, labels, strict=True)]
        evaluation[name] = str(tmp_path / f"{name}.jsonl")
        Path(evaluation[name]).write_text("".join(rows), encoding="utf-8")
    found = advise(
        Request(
            evaluation,
            str(tmp_path / "base"),
            [str(tmp_path / name) for name in NAMES],
            shape=(1, 8),
            max_loss=0.2,
            max_drop=1,
        ),
        tmp_path / "advice",
    )
    for name in NAMES:
        assert found.tasks[name].by_drop[0].metric == pytest.approx(expected[name])
    assert found.chosen is not None
    assert f"--adapter {tmp_path / 'one'} --adapter {tmp_path / 'two'}" in found.command
