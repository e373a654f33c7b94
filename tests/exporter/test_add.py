"""`add`: tasks join an exported folder without a trace, and the folder is as it was where they cannot."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from adapters import SeqBnConfig
from transformers import BertForSequenceClassification

import runtime
from exporter import ExportError, VerificationError, add, export
from exporter.cli.main import main
from exporter.trace import trace
from runtime.bundle import MANIFEST, WEIGHTS, digest, read_manifest
from tests.helpers.pass_testing import op_types
from tests.helpers.tiny_models import assert_parity, inputs, reference, tiny_model
from tests.helpers.tiny_peft import config, tuned_model

TASKS = {
    "topic": ("seq_bn", "3"),
    "spam": ("seq_bn", "2"),
    "mood": ("double_seq_bn", "4"),
    "stars": ("seq_bn", "reg"),
    "tone": ("double_seq_bn", "2"),
}
OLD, NEW = ("topic", "mood"), ("spam", "stars", "tone")
DROPS = (1, 0)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS)


def _with(model: Any, names: tuple[str, ...]) -> Any:
    """The model with only these tasks."""
    other = tiny_model(TASKS)
    for name in set(TASKS) - set(names):
        other.delete_adapter(name)
        other.delete_head(name)
    return other


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("add") / "onnx"
    export(model, tasks=OLD, drop=DROPS, routed=True, extendable=True, output=folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "onnx")


def _state(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in folder.iterdir()}


def test_new_tasks_join_their_structures(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "trace", None)
    report = add(folder, model=_with(model, NEW))
    assert {row.task for row in report.parity} == set(NEW)
    predictor = runtime.load(folder, provider="cpu")
    assert predictor.tasks == (*OLD, *NEW)
    feeds = inputs((3, 8))
    for drop in DROPS:
        answers = predictor.run(feeds, drop=drop)
        assert list(answers) == [*OLD, *NEW]
        for task, answer in answers.items():
            assert_parity(answer, reference(model, task, feeds, drop))
        names = ["tone", "topic", "stars"]
        for row, answer in enumerate(predictor.run_routed(feeds, names, drop=drop)):
            assert_parity(answer, reference(model, names[row], feeds, drop)[row])
    assert {len(variant.tasks) for variant in predictor.manifest.variants} == {5}


@pytest.mark.sweep
def test_the_graphs_are_those_of_an_export_of_all(model: Any, folder: Path, tmp_path: Path) -> None:
    add(folder, model=_with(model, NEW))
    export(model, tasks=(*OLD, *NEW), drop=DROPS, routed=True, extendable=True, output=tmp_path / "whole")
    found, expected = read_manifest(folder), read_manifest(tmp_path / "whole")
    assert found.tasks == expected.tasks
    assert found.files.keys() == expected.files.keys()
    names = [name for name in found.files if name.endswith(".onnx") and "template" not in name]
    assert len(names) == 2 * len(DROPS)  # one of all tasks, one routed
    for name in names:
        graphs = [ir.load(each / name) for each in (folder, tmp_path / "whole")]
        assert op_types(graphs[0]) == op_types(graphs[1])
    assert (folder / WEIGHTS).stat().st_size == (tmp_path / "whole" / WEIGHTS).stat().st_size


@pytest.mark.sweep
def test_a_folder_can_grow_again(model: Any, folder: Path) -> None:
    add(folder, model=_with(model, ("spam",)))
    add(folder, model=_with(model, ("spam", "stars")))
    feeds = inputs((2, 5))
    predictor = runtime.load(folder, provider="cpu")
    assert predictor.tasks == (*OLD, "spam", "stars")
    assert_parity(predictor.run(feeds)["stars"], reference(model, "stars", feeds, DROPS[0]))


def test_only_the_named_tasks_are_added(folder: Path) -> None:
    model = tiny_model(TASKS)
    model.delete_head("tone")
    with pytest.raises(ExportError, match=r"'tone' has no prediction head of the same name.*--tasks"):
        add(folder, model=model)
    with pytest.raises(ExportError, match="the bundle already has topic: name only new tasks"):
        add(folder, model=model, tasks=["topic", "spam"])
    add(folder, model=model, tasks=["spam"])
    predictor = runtime.load(folder, provider="cpu")
    assert predictor.tasks == (*OLD, "spam")
    feeds = inputs((2, 5))
    assert_parity(predictor.run(feeds)["spam"], reference(model, "spam", feeds, DROPS[0]))


@pytest.mark.sweep
def test_templates_cost_little_more_than_the_adapters(model: Any, exported: Path, tmp_path: Path) -> None:
    export(model, tasks=OLD, drop=DROPS, routed=True, output=tmp_path / "plain")
    more = (exported / WEIGHTS).stat().st_size - (tmp_path / "plain" / WEIGHTS).stat().st_size
    adapters = sum(p.nbytes for name, p in model.named_parameters() if any(f".{task}." in name for task in OLD))
    projections = sum(p.nbytes for name, p in model.named_parameters() if ".query." in name or ".key." in name)
    # q and k as they are before the root of the head's size is folded into them.
    assert 0 < more < 1.1 * (adapters + projections)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"new": ("par_bn", "2")}, "no task of the bundle has the structure of the task 'new'"),
        ({"new": ("seq_bn", "multi")}, "no task of the bundle has the structure of the task 'new'"),
        ({"new": (SeqBnConfig(reduction_factor=4), "2")}, "has reduction_factor 4, that of the task 'topic' has .* 16"),
        ({"new": ("lora", "2")}, "its adapter has architecture \"lora\", that of the task 'topic' has architecture null"),
        ({"new": ("seq_bn", "multi")}, "its head has "),
        ({"topic": ("seq_bn", "2")}, "have no new task; the bundle has mood, topic"),
        ({"new": ("seq_bn", "tag")}, r"found new \(tagging\)"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, tasks: dict[str, Any], message: str) -> None:
    before = _state(folder)
    with pytest.raises(ExportError, match=message):
        add(folder, model=tiny_model(tasks))
    assert _state(folder) == before


def test_another_trunk_is_noticed(folder: Path) -> None:
    before = _state(folder)
    with pytest.raises(VerificationError, match=r"(?s)spam at 1x1: max.*\n  new tasks are computed on the trunk of the bundle"):
        add(folder, model=tiny_model({"spam": ("seq_bn", "2")}, seed=1))
    assert _state(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["onnx"]


def test_a_folder_of_links_is_refused(model: Any, folder: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    with pytest.raises(ExportError, match=r"links in place of files, first adapterdrop\.json, .*: copy the files"):
        add(links, model=model)


def test_a_bundle_without_templates_says_how_to_get_them(model: Any, folder: Path) -> None:
    manifest = read_manifest(folder)
    for name in [name for name in manifest.files if "template" in name]:
        (folder / name).unlink()
    files = {name: value for name, value in manifest.files.items() if "template" not in name}
    replace(manifest, files=files).write(folder)
    with pytest.raises(ExportError, match="has no templates, so that tasks cannot be added: export it again with --extendable"):
        add(folder, model=model)


def test_the_report_has_the_forms_of_weights(tmp_path: Path) -> None:
    """As that of an export: whole weights, where an adapter of PEFT is computed into them."""
    model = tuned_model("FOURIERFT", BertForSequenceClassification(config(num_hidden_layers=1)))
    (exported,) = export(model, tasks=["first"], extendable=True, output=tmp_path / "onnx").tasks
    (added,) = add(tmp_path / "onnx", model=model).tasks
    assert added.name == "second"
    assert "whole weight" in added.forms
    assert (added.forms, added.bytes) == (exported.forms, exported.bytes)


def test_the_command_line(model: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _with(model, ("spam",)).save_pretrained(tmp_path / "model")
    assert main(["add", str(folder), "--model", str(tmp_path / "model")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 1 new task, drops 1, 0 of 2 layers")
    assert "next:" in lines[-9:]
    assert str(folder) in "".join(lines[lines.index("next:") :])
    assert runtime.load(folder).tasks == (*OLD, "spam")
    assert main(["add", str(folder), "--model", str(tmp_path / "model"), "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("error: the model and adapters given have no new task")
    (folder / MANIFEST).unlink()
    assert main(["add", str(folder), "--quiet"]) == 2
    assert "not a bundle" in capsys.readouterr().err
