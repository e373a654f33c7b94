"""From a folder with a fusion and a calibration file to a pruned graph, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from adapters.composition import Fuse

from exporter import ExportError, export
from exporter.cli.main import main
from runtime.bundle import read_manifest
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import LAYERS, assert_parity, bert_config, inputs, reference, run_graph, tiny_model, tokenizer

MEMBERS = ("a", "b", "c")
NAME = ",".join(MEMBERS)


@pytest.fixture(scope="module")
def model() -> Any:
    model = tiny_model(dict.fromkeys(MEMBERS, ("seq_bn", "2")), bert_config(VOCABULARY))
    model.add_adapter_fusion(Fuse(*MEMBERS))
    model.add_classification_head(NAME, num_labels=2)
    for name in MEMBERS:
        model.delete_head(name)
    return model


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusion") / "model"
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_given_scores_decide_and_pruned_members_are_gone(model: Any, folder: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({str(layer): {"a": 0.5, "b": 0.1, "c": 0.4} for layer in range(1, LAYERS)}))
    command = ["--model", str(folder), "--drop", "1", "--keep-fused", "2", "--calibration", str(scores), "--quiet"]
    assert main([*command, "--output", str(tmp_path / "onnx")]) == 0
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    shapes = {value.name: list(value.dims) for value in graph.initializer}
    assert not [name for name in shapes if ".adapters.b." in name or ".layer.0.output.adapter" in name]
    # The members are one batch, called after the first.
    assert {shape[0] for name, shape in shapes.items() if ".adapters.a.adapter_up" in name} == {2}
    manifest = read_manifest(tmp_path / "onnx")
    (task,) = manifest.tasks
    layers = manifest.variant().tasks[task.name]
    assert (task.setup, layers.drop, layers.dropped) == ("Fuse(a, b, c)", 1, (0,))
    assert layers.members == ((), *[("a", "c")] * (LAYERS - 1))
    feeds = inputs((3, 9), VOCABULARY)
    # How the library runs a part of a fusion: with the whole fusion's weights.
    expected = reference(model, Fuse("a", "c", name=NAME), feeds, 1, head=NAME)
    assert_parity(run_graph(tmp_path / "onnx", feeds)["logits"], expected)


def test_texts_with_labels_give_attention_drift_and_a_metric(folder: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(("a fine film", "no", "well, well", "why not"))]
    calibration = tmp_path / "texts.jsonl"
    calibration.write_text("\n".join(map(json.dumps, rows)))
    command = ["--model", str(folder), "--keep-fused", "1", "--calibration", str(calibration), "--json", "--quiet"]
    assert main([*command, "--output", str(tmp_path / "onnx")]) == 0
    report = json.loads(capsys.readouterr().out)
    (fusion,), (drift,) = report["fusions"], report["drift"]
    assert (fusion["task"], fusion["fusion"], fusion["measured"]) == (NAME, NAME, True)
    assert [row["layer"] for row in fusion["layers"]] == list(range(LAYERS))
    for row in fusion["layers"]:
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert fusion["kept"][str(row["layer"])] == [max(row["scores"], key=row["scores"].get)]
    assert drift["task"] == NAME
    assert drift["max_abs"] > 1e-3
    assert drift["metric"] == "accuracy"
    assert {drift["metric_before"], drift["metric_after"]} <= {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.sweep
def test_a_member_that_another_task_uses_stays(model: Any, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({str(layer): {"a": 0.5, "b": 0.1, "c": 0.4} for layer in range(LAYERS)}))
    tasks = {"fused": Fuse(*MEMBERS), "other": "b"}
    for name in tasks:
        model.add_classification_head(name, num_labels=3, overwrite_ok=True)
    export(model, tasks=tasks, keep_fused=1, calibration=scores, output=tmp_path / "onnx")
    feeds = inputs((2, 9), VOCABULARY)
    answers = run_graph(tmp_path / "onnx", feeds)
    assert_parity(answers["other"], reference(model, "b", feeds, head="other"))
    assert_parity(answers["fused"], reference(model, Fuse("a", name=NAME), feeds, head="fused"))
    for name in tasks:
        model.delete_head(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_fused": 1}, "needs a calibration file"),
        ({"keep_fused": 0, "calibration": "scores.json"}, "must be from 1 to 3"),
        ({"keep_fused": 4, "calibration": "scores.json"}, "must be from 1 to 3"),
        ({"keep_fused": 1, "calibration": "missing.json"}, "missing.json"),
        ({"keep_fused": 1, "calibration": "texts.txt"}, "need a tokenizer"),
    ],
)
def test_refusals(model: Any, tmp_path: Path, monkeypatch: Any, arguments: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {str(layer): dict.fromkeys(MEMBERS, 1.0) for layer in range(LAYERS)}
    Path("scores.json").write_text(json.dumps(scores), encoding="utf-8")
    Path("texts.txt").write_text("one\ntwo\n", encoding="utf-8")
    model.set_active_adapters(None)  # an active setup would be the task
    with pytest.raises(ExportError, match=message):
        export(model, output="onnx", **arguments)
    assert not Path("onnx").exists()
