"""Linear heads over the embeddings of one text encoder, against scikit-learn on the encoder's own vectors."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from transformers import BertModel

import runtime
from exporter import Report, export
from exporter.checkpoints.linear_heads import read_heads
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.errors import ExportError
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import answer, config

WIDTH = 32
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(40, WIDTH))
TOPICS = np.array(["sport", "art", "news"])[RANDOM.integers(0, 3, 40)]
YES = RANDOM.integers(0, 2, 40)
SEVERAL = RANDOM.integers(0, 2, (40, 4))
HEADS: dict[str, Any] = {
    "topics": LogisticRegression().fit(VECTORS, TOPICS),
    "yes": LogisticRegression().fit(VECTORS, YES),
    "several": MultiOutputClassifier(LogisticRegression()).fit(VECTORS, SEVERAL),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as SetFit writes it: sentence-transformers with a mean, and a pickled head."""
    folder = tmp_path_factory.mktemp("setfit")
    torch.manual_seed(0)
    BertModel(config(initializer_range=0.2)).save_pretrained(folder)
    kinds = (("", "models.Transformer"), ("1_Pooling", "models.Pooling"))
    modules = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_setfit.json").write_text(json.dumps({"normalize_embeddings": True, "labels": ["no", "yes"]}))
    (folder / "model_head.pkl").write_bytes(pickle.dumps(HEADS["yes"]))
    return folder


def vectors(folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    hidden = answer(BertModel.from_pretrained(folder).eval(), feeds).last_hidden_state.numpy()
    mask = feeds["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    found: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = powers / powers.sum(1, keepdims=True)
    return found


@pytest.fixture(scope="module")
def report(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export(encoder, False, heads=HEADS, output=tmp_path_factory.mktemp("heads") / "onnx", drop=1, slots=1)


def test_heads_of_scikit_learn(encoder: Path, report: Report) -> None:
    assert report.variants[0].shared == "the whole trunk: no layer has an adapter"
    assert report.variants[0].notes == ("topics, yes, several: the base model's trunk with a head only",)
    assert [task.labels for task in report.tasks][:2] == [("art", "news", "sport"), ("no", "yes")]
    assert [task.head for task in report.tasks] == ["classification", "classification", "multilabel"]
    feeds = inputs((3, 9))
    own, found = vectors(encoder, feeds), run_graph(report.output, feeds)
    for name in ("topics", "yes"):
        assert_parity(softmax(found[name]), HEADS[name].predict_proba(own).astype(np.float32))
    several = np.stack([each[:, 1] for each in HEADS["several"].predict_proba(own)], 1)
    assert_parity(1 / (1 + np.exp(-found["several"])), several.astype(np.float32))
    rows = runtime.load(report.output, provider="cpu").run_routed(feeds, ["yes", "several", "topics"])
    for row, name in enumerate(("yes", "several", "topics")):
        assert_parity(rows[row], found[name][row])


def test_heads_join_an_exported_folder(encoder: Path, report: Report, tmp_path: Path) -> None:
    folder, file, feeds = tmp_path / "onnx", tmp_path / "votes.safetensors", inputs((3, 9))
    shutil.copytree(report.output, folder)
    head = LogisticRegression().fit(VECTORS, 1 - YES)
    np.savez(tmp_path / "votes.npz", coef=head.coef_, intercept=head.intercept_, classes=head.classes_)
    given = ["--model", str(encoder), "--head", f"votes={tmp_path / 'votes.npz'}", "--quiet"]
    assert main(["task", str(folder), *given, "--output", str(file)]) == 0
    predictor = runtime.load(folder, provider="cpu")
    predictor.add_task("votes", file)
    (slot,) = predictor.run_routed({name: feed[:1] for name, feed in feeds.items()}, ["votes"])
    assert main(["add", str(folder), *given]) == 0
    expected = head.predict_proba(vectors(encoder, feeds)).astype(np.float32)
    assert_parity(softmax(run_graph(folder, feeds)["votes"]), expected)
    assert_parity(softmax(slot[None]), expected[:1])


def test_files_and_arrays_are_the_same_head(tmp_path: Path) -> None:
    head = HEADS["topics"]
    np.savez(tmp_path / "head.npz", coef=head.coef_, intercept=head.intercept_, classes=head.classes_)
    arrays = {"weight": np.ascontiguousarray(head.coef_), "bias": head.intercept_}  # safetensors writes other orders wrong
    save_file(arrays, tmp_path / "head.safetensors", {"labels": json.dumps(list(head.classes_))})
    given = (head.coef_.tolist(), head.intercept_, list(head.classes_))
    sources = {"object": head, "npz": tmp_path / "head.npz", "file": str(tmp_path / "head.safetensors"), "arrays": given}
    expected, *others = read_heads(sources).values()
    for found in others:
        assert torch.allclose(found.weights, expected.weights)
        assert torch.allclose(found.bias, expected.bias)
        assert found.labels == ("art", "news", "sport")


def test_several_labels_with_names() -> None:
    head = OneVsRestClassifier(LogisticRegression()).fit(VECTORS, SEVERAL)
    (found,) = read_heads({"several": head}).values()
    assert (found.kind, found.labels) == ("multilabel", ("0", "1", "2", "3"))


def test_a_binary_head_that_was_fitted_as_multinomial() -> None:
    head = LogisticRegression().fit(VECTORS, YES)
    head.multi_class = "multinomial"  # as scikit-learn before 1.8: its probabilities are softmax((-value, value))
    (found,) = read_heads({"yes": head}).values()
    values = np.stack((-head.decision_function(VECTORS), head.decision_function(VECTORS)), 1)
    assert_parity(softmax(VECTORS @ found.weights.numpy().T + found.bias.numpy()), softmax(values))


def test_names_that_are_python_objects(tmp_path: Path) -> None:
    head = LogisticRegression().fit(VECTORS, TOPICS.astype(object))
    np.savez(tmp_path / "head.npz", coef=head.coef_, classes=head.classes_)
    with pytest.raises(ExportError, match=r"a pickle .*: save numbers, and names as text, classes=head.classes_.astype\(str\)"):
        read_heads({"topics": tmp_path / "head.npz"})


ONES = np.ones((3, WIDTH))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (LinearRegression().fit(VECTORS, YES), "is a LinearRegression: expected a fitted LogisticRegression"),
        (OneVsRestClassifier(LogisticRegression()).fit(VECTORS, TOPICS), "is a OneVsRestClassifier: expected"),
        (LogisticRegression(), "is not a fitted LogisticRegression: fit it first"),
        (5, "is a int: expected"),
        ((ONES * np.nan,), "is a tuple: expected"),
        ((ONES * np.nan, None), "contains NaN or infinity"),
        ((ONES, [1.0]), r"weights of shape \[3, 32\], 1 biases and 0 labels: expected"),
        ((ONES, None, ["a", "b"]), "3 biases and 2 labels: expected"),
        ((ONES, None, ["a", "b", "b"]), "has a label twice: a, b, b"),
        ((["x"], None), "does not consist of numbers"),
        ("nowhere.npz", "is not in 'nowhere.npz': expected a file"),
    ],
)
def test_heads_that_are_refused(head: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read_heads({"topics": head})


def test_a_pickle_is_never_read(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (encoder, encoder / "model_head.pkl"):
        arguments = ["--model", str(encoder), "--head", f"yes={path}", "--output", str(tmp_path / "onnx"), "--quiet"]
        assert main(arguments) == 2
        assert "model_head.pkl' is a pickle, which could run code: load it yourself" in capsys.readouterr().err
    np.savez(tmp_path / "object.npz", coef=np.array([object()]))
    with pytest.raises(ExportError, match="has an array of Python objects, which is a pickle"):
        read_heads({"topics": tmp_path / "object.npz"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": {"a": (np.ones((3, 7)), None)}}, "for embeddings of 7 numbers, those of .* have 32"),
        ({"heads": [ONES]}, "heads must be a mapping"),
        ({"heads": {"a.b": (ONES, None)}}, "must be a text without dots"),
        ({"heads": {"a": (ONES, None)}, "pooling": {"a": "mean"}}, "has the pooling of the model's modules.json"),
        ({"heads": {"a": (ONES, None)}, "adapters": ["a=base"]}, "the head 'a' has the name of the task 'a'"),
    ],
)
def test_wrong_requests(encoder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load(encoder, False, **settings)


def test_a_folder_without_a_pooling(tmp_path: Path) -> None:
    BertModel(config()).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"does not state how .* are pooled .*: name the pooling, such as --pooling a=mean"):
        load(tmp_path, False, heads={"a": (ONES, None)})
    assert load(tmp_path, False, heads={"a": (ONES, None)}, pooling={"a": "cls"}).model.vector_heads["a"].labels == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )
    with pytest.raises(ExportError, match="heads require a model folder or hub id, found a live BertModel"):
        load(BertModel(config()), False, heads={"a": (ONES, None)})
