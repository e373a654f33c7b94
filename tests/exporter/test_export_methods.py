"""Any drop, and tasks that differ in everything, against single-task PyTorch; test_support.py has the methods one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from adapters import LoRAConfig, SeqBnConfig, SeqBnInvConfig
from adapters.composition import Fuse, Stack

from exporter import export
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, bert_config, inputs, reference, run_graph, tiny_model

LAYERS = 3


def _model(tasks: Mapping[str, tuple[Any, str]]) -> Any:
    return tiny_model(tasks, bert_config(layers=LAYERS))


def _check(model: Any, folder: Path, drop: int) -> None:
    export(model, drop=drop, output=folder)
    for shape in ((1, 3), (6, 10)):
        feeds = inputs(shape)
        answers = run_graph(folder, feeds)
        assert list(answers) == list(model.heads)
        for task, answer in answers.items():
            assert_parity(answer, reference(model, task, feeds, drop))


@pytest.mark.parametrize("drop", [3, *swept(0)])
def test_any_drop(drop: int, tmp_path: Path) -> None:
    _check(_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "tag"), "c": ("seq_bn", "2")}), tmp_path / "onnx", drop)


def test_tasks_that_differ_in_everything(tmp_path: Path) -> None:
    model = _model(
        {
            "a": ("seq_bn", "2"),
            "b": (SeqBnInvConfig(), "reg"),
            "c": (SeqBnConfig(leave_out=[0, 2]), "tag"),
            "d": (SeqBnConfig(non_linearity="swish", reduction_factor=4), "pooler"),
            "e": (LoRAConfig(r=2), "multi"),
        }
    )
    _check(model, tmp_path / "onnx", drop=1)


@pytest.mark.sweep
def test_dropped_and_left_out_layers_are_one_structure(tmp_path: Path) -> None:
    left_out = (SeqBnConfig(leave_out=[0, 1]), "3")
    model = _model({"a": ("seq_bn", "2"), "b": left_out, "c": (SeqBnConfig(leave_out=[0]), "2"), "d": left_out})
    drops = {"a": 2, "c": 2, "d": 1}
    report = export(model, drop=drops, output=tmp_path / "onnx")
    assert {task.group for task in report.tasks} == {0}
    feeds = inputs((4, 9))
    answers = run_graph(tmp_path / "onnx", feeds)
    for task, answer in answers.items():
        assert_parity(answer, reference(model, task, feeds, drops.get(task, 0)))
    # One adapter of the last layer for each task.
    one = sum(parameter.numel() for parameter in model.bert.encoder.layer[2].output.adapters["a"].parameters())
    assert report.variants[0].adapter_parameters == 4 * one


@pytest.mark.sweep
def test_a_drop_per_task_and_compositions_in_one_graph(tmp_path: Path) -> None:
    model = _model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "c": ("seq_bn", "2")})
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_classification_head("fused", num_labels=4)
    tasks = {"a": "a", "b": "b", "c": Stack("a", "c"), "fused": Fuse("a", "b")}
    drops = {"a": 3, "b": 1, "fused": 2}
    report = export(model, tasks=tasks, drop=drops, output=tmp_path / "onnx")
    assert {task.name: task.drop for task in report.tasks} == {**drops, "c": 0}
    assert report.variants[0].drop == 0
    feeds = inputs((4, 9))
    answers = run_graph(tmp_path / "onnx", feeds)
    for name, setup in tasks.items():
        assert_parity(answers[name], reference(model, setup, feeds, drops.get(name, 0), head=name))


def test_adapters_tied_across_layers_are_stored_once(tmp_path: Path) -> None:
    """In one task by the same modules, in the other by equal content, as a checkpoint has it; the lowest layer is dropped."""
    model = _model(dict.fromkeys(("tied", "equal"), (SeqBnConfig(reduction_factor=2), "2")))
    for name in ("tied", "equal"):
        layers = [layer.output.adapters for layer in model.bert.encoder.layer]
        for layer in layers[1:]:
            if name == "tied":
                layer[name] = layers[0][name]
            else:
                layer[name].load_state_dict(layers[0][name].state_dict())
    report = export(model, drop=1, output=tmp_path / "onnx")
    assert report.variants[0].adapter_parameters == (LAYERS - 1) * report.variants[0].stored_adapter_parameters
    heads = sum(parameter.numel() for parameter in model.heads.parameters())
    # A few shapes and ones on top; a second copy of an adapter would be 4 kB.
    assert 0 <= report.graph.task_bytes - 4 * (report.variants[0].stored_adapter_parameters + heads) < 1024
    feeds = inputs((4, 9))
    answers = run_graph(tmp_path / "onnx", feeds)
    assert list(answers) == ["tied", "equal"]
    for task, answer in answers.items():
        assert_parity(answer, reference(model, task, feeds, 1))
