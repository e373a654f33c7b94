"""The command lines with a base model and PEFT adapters in folders; the adapters library is not needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import BertForSequenceClassification

import runtime
from exporter.cli.main import main
from runtime.__main__ import main as runtime_main
from tests.helpers.batch_independence import SHORT, left_tokenizer
from tests.helpers.tiny_models import assert_parity, bert_config, inputs
from tests.helpers.tiny_peft import answer, scramble

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with its tokenizer in base/, and two adapters in one/ and two/."""
    folder = tmp_path_factory.mktemp("peft")
    torch.manual_seed(3)
    base: Any = BertForSequenceClassification(bert_config())
    base.save_pretrained(folder / "base")
    tokenizer = left_tokenizer(base)
    assert tokenizer is not None
    tokenizer.save_pretrained(folder / "base")
    for name in NAMES:
        model = peft.get_peft_model(
            BertForSequenceClassification.from_pretrained(folder / "base"),
            peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]),
        )
        scramble(model).save_pretrained(str(folder / name))
    return folder


def arguments(saved: Path, names: Sequence[str] = NAMES) -> list[str]:
    return ["--model", str(saved / "base"), *(part for name in names for part in ("--adapter", str(saved / name)))]


@pytest.fixture(scope="module")
def bundle(saved: Path) -> Path:
    folder = saved / "onnx"
    assert main([*arguments(saved), "--routed", "--quiet", "--output", str(folder)]) == 0
    return folder


def test_the_export_equals_peft(saved: Path, bundle: Path) -> None:
    feeds = inputs((3, 9))
    predictor = runtime.load(bundle, provider="cpu")
    found = predictor.run(feeds)
    tasks = ("two", "one", "two")
    routed = predictor.run_routed(feeds, tasks)
    for name in NAMES:
        base = BertForSequenceClassification.from_pretrained(saved / "base")
        expected = answer(peft.PeftModel.from_pretrained(base, str(saved / name)).eval(), feeds).logits.numpy()
        assert_parity(found[name], expected)
        for row in (row for row, task in enumerate(tasks) if task == name):
            assert_parity(routed[row], expected[row])


def test_the_runtime_answers(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_main([str(bundle), "--text", SHORT, "--json"]) == 0
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    assert text["text"] == SHORT


def test_the_folder_is_inspected(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    assert "task weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), (), "has no adapters: add"),
        (NAMES, ("--drop", "3"), "drop must be from 0 to 2"),
        (NAMES, ("--tasks", "three"), "unknown adapter 'three'; adapters: one, two"),
        (("one", "base"), (), "contains neither an adapter nor a fusion"),
    ],
)
def test_wrong_arguments(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: Sequence[str], options: Sequence[str], message: str
) -> None:
    assert main([*arguments(saved, names), *options, "--quiet", "--output", str(tmp_path / "onnx")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())
