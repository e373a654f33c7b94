"""The bundled example: its files, and the predictions of the main command for real sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import AutoAdapterModel
from adapters.composition import Fuse
from safetensors.torch import load_file

import runtime
from exporter.example import base_model_folder, example_folder, fusion_folders
from tests.helpers.tiny_models import base_tokenizer, inputs, reference

ROOT = Path(__file__).parents[2]
EXAMPLE = example_folder()
RESULTS: dict[str, dict[str, Any]] = json.loads((EXAMPLE / "results.json").read_text())
FUSIONS = {folder.name: folder for folder in fusion_folders()}
PAIR = ("the bank was steep and muddy", "bank : sloping land beside a body of water")
TEXTS = [
    "the film is a moving , funny and beautifully acted little gem .",
    "a tedious mess : badly written , badly played and twice as long as it should be .",
    PAIR,
]


def test_it_is_small_and_complete() -> None:
    shipped = [path for path in EXAMPLE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in shipped) <= 10_000_000
    assert {path.suffix for path in shipped} == {".py", ".md", ".json", ".safetensors", ".toml", ""}
    folders = {path.parent.name for path in EXAMPLE.glob("*/adapter_config.json")}
    assert len(folders) == 8
    assert folders | set(FUSIONS) == set(RESULTS)
    assert [RESULTS[name]["members"] for name in FUSIONS] == [[name for name in RESULTS if name in folders]]


def test_every_task_beats_its_baseline_and_the_card_shows_it() -> None:
    card = (EXAMPLE / "README.md").read_text()
    for name, result in RESULTS.items():
        better = (
            result["baseline"] - result["by_drop"][0]
            if result["metric"] == "RMSE"
            else result["by_drop"][0] - result["baseline"]
        )
        assert better > 0.1, name
        assert len(result["by_drop"]) == 7
        assert f"| {name} |" in card
        if "shared" in result:
            assert len(result["shared"]["by_drop"]) == 7
            assert result["shared"]["parameters"] * 6 == result["parameters"]
            assert f"| {name} | one for all layers | {result['shared']['parameters']:,} |" in card
    assert any("shared" in result for result in RESULTS.values())
    kinds = [result["kind"] for result in RESULTS.values()]
    counts = {len(result["labels"]) for result in RESULTS.values() if result["kind"] == "classification"}
    assert kinds.count("regression") == kinds.count("tagging") == 1
    assert len(counts) >= 5


def _model() -> Any:
    """The example by the library's own means."""
    model = AutoAdapterModel.from_pretrained(base_model_folder())
    for name in RESULTS:
        if name not in FUSIONS:
            model.load_adapter(str(EXAMPLE / name), load_as=name, use_safetensors=True)
    for folder in FUSIONS.values():
        model.load_adapter_fusion(str(folder), use_safetensors=True)
    return model.eval()


def _fused(model: Any, name: str, feeds: dict[str, np.ndarray], drop: int) -> np.ndarray:
    model.set_active_adapters(Fuse(*RESULTS[name]["members"], name=name), skip_layers=list(range(drop)))
    model.active_head = name
    with torch.no_grad():
        logits: np.ndarray = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.numpy()
    return logits


def test_the_fusion_is_stored_in_float16_and_loaded_in_float32() -> None:
    model = _model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    state = model.state_dict()
    for name, folder in FUSIONS.items():
        stored = load_file(folder / "model_adapter_fusion.safetensors")
        assert len(stored) == 6 * 5
        assert all(tensor.dtype == torch.float16 and torch.equal(state[key], tensor.float()) for key, tensor in stored.items())
        answers = [_fused(model, name, dict(base_tokenizer()(text, return_tensors="np")), 0).argmax() for text in TEXTS[:2]]
        assert [RESULTS[name]["labels"][answer] for answer in answers] == ["positive", "negative"]


def _feeds(kind: str) -> dict[str, np.ndarray]:
    if kind == "longest":
        # Beyond the lengths at which an export of so many tasks is verified.
        return inputs((1, 512), 30522)
    batch = base_tokenizer()([text for text in TEXTS if isinstance(text, str)], padding=True, return_tensors="np")
    return {name: value.astype(np.int64) for name, value in batch.items()}


@pytest.mark.parametrize("kind", ["texts", "longest"])
def test_the_exported_example_equals_the_library(example_bundle: Path, kind: str) -> None:
    model = _model()
    feeds = _feeds(kind)
    answers = runtime.load(example_bundle, provider="cpu").run(feeds)
    assert set(answers) == set(RESULTS)
    for name, answer in answers.items():
        expected = reference(model, name, feeds, 5) if name not in FUSIONS else _fused(model, name, feeds, 5)
        assert np.abs(answer - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_it_understands_sentences(example_bundle: Path) -> None:
    answers = runtime.load(example_bundle, provider="cpu").predict(TEXTS)
    assert [prediction.label for prediction in answers["movie_sentiment"][:2]] == ["positive", "negative"]
    liked, disliked = (prediction.value for prediction in answers["sentiment_intensity"][:2])
    assert liked is not None
    assert disliked is not None
    assert liked > disliked
    words = answers["part_of_speech"][0].words
    assert [(word.text, word.label) for word in words if word.text in ("film", ".")] == [("film", "NOUN"), (".", "PUNCT")]


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_the_runtime_command_answers(example_bundle: Path, extra: list[str]) -> None:
    command = [sys.executable, "-m", "runtime", str(example_bundle), "--text", str(TEXTS[0]), "--pair", *PAIR, *extra]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True, env=dict(os.environ))
    assert all(name in result.stdout for name in RESULTS)
    if extra:
        texts = json.loads(result.stdout)["texts"]
        assert [text["text"] for text in texts] == [TEXTS[0], list(PAIR)]


def test_a_reader_that_has_seen_enough_is_no_error(example_bundle: Path) -> None:
    command = f"{sys.executable} -m exporter inspect {example_bundle} --json | head -c 1"
    found = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert (found.stdout, found.stderr, found.returncode) == ("{", "", 0)
