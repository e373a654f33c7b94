"""The bundled example of PEFT: what `python -m exporter` exports where the adapters library is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import runtime
from exporter.checkpoints import load
from exporter.cli.main import main
from exporter.example import BASE_MODEL, PEFT, base_model_folder, example_folder, peft_folders
from runtime.bundle import read_manifest
from tests.helpers.tiny_models import base_tokenizer

EXAMPLE = example_folder()
RESULTS: dict[str, dict[str, Any]] = json.loads((EXAMPLE / "results.json").read_text())
LORAS = {name: result["lora"] for name, result in RESULTS.items() if "lora" in result}
TEXTS = ["a moving , funny and beautifully acted film .", "a tedious mess : badly written and twice as long as it should be ."]


def test_it_is_small_and_complete() -> None:
    files = [path for path in (EXAMPLE / PEFT).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.name for path in files} == {"adapter_config.json", "adapter_model.safetensors", "config.json"}
    assert {folder.name for folder in peft_folders()} == set(LORAS)
    assert len(LORAS) >= 3


def test_every_adapter_beats_its_baseline_and_the_card_shows_it() -> None:
    card = (EXAMPLE / "README.md").read_text()
    for name, lora in LORAS.items():
        assert lora["by_drop"][0] > RESULTS[name]["baseline"] + 0.1, name
        assert lora["by_drop"][0] > lora["by_drop"][-1], name
        assert f"| {name} | {lora['parameters']:,} |" in card


def test_the_configurations_name_the_base_model() -> None:
    for folder in peft_folders():
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == BASE_MODEL
        assert json.loads((folder / "config.json").read_text())["id2label"] == {
            str(number): label for number, label in enumerate(RESULTS[folder.name]["labels"])
        }


def test_the_weights_are_stored_in_float16() -> None:
    for folder in peft_folders():
        stored = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        assert sum(tensor.numel() for name, tensor in stored.items() if "lora_" in name) == LORAS[folder.name]["parameters"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `python -m exporter --drop 5` writes without the adapters library."""
    folder = tmp_path_factory.mktemp("example") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "has_adapterhub", lambda: False)
        assert main(["--drop", "5", "--quiet", "--output", str(folder)]) == 0
    return folder


def test_the_exported_example_equals_peft(bundle: Path) -> None:
    assert [task.name for task in read_manifest(bundle).tasks] == sorted(LORAS)
    batch = base_tokenizer()(TEXTS, padding=True, return_tensors="np")
    feeds = {name: value.astype(np.int64) for name, value in batch.items()}
    found = runtime.load(bundle, provider="cpu").run(feeds)
    for folder in peft_folders():
        labels = RESULTS[folder.name]["labels"]
        base = AutoModelForSequenceClassification.from_pretrained(base_model_folder(), num_labels=len(labels))
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
        assert np.abs(found[folder.name] - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
    assert [RESULTS["movie_sentiment"]["labels"][row.argmax()] for row in found["movie_sentiment"]] == ["positive", "negative"]
