"""Every target in every precision, against single-task PyTorch at shapes that were not traced."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import BertConfig

import exporter.export_tasks
import exporter.variant
import exporter.verify.evaluate
import exporter.verify.verify
import runtime
from exporter import ExportError, VerificationError, export
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TARGETS, TOLERANCES, needs_ranges
from exporter.trace.trace import trace_group
from exporter.traced_group import TracedGroup
from exporter.verify.eager import eager
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import MAX_LENGTH, inputs, reference, run_graph, tiny_model, tokenizer

TASKS = {"a": ("seq_bn", "2"), "b": ("seq_bn", "3")}
CASES = [(target, precision) for target, precisions in TARGETS.items() for precision in precisions]
# One precision of each target but the default one, with which the other tests export.
USUAL = (("cpu", "int8"), ("cuda", "fp16"), ("openvino", "int8"), ("tensorrt", "fp16"))
FUSED = {"cpu": {"MultiHeadAttention"}, "cuda": {"MultiHeadAttention", "SkipLayerNormalization"}}
INTEGERS = {("cpu", "int8"): {"MatMulIntegerToFloat"}}


@pytest.fixture(scope="module")
def model() -> Any:
    # Large enough that its products are worth quantizing, and with the vocabulary of the tokenizer.
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=VOCABULARY,
        max_position_embeddings=MAX_LENGTH,
    )
    return tiny_model(TASKS, config)


@pytest.fixture(scope="module")
def traces() -> dict[int, TracedGroup]:
    return {}


@pytest.fixture(autouse=True)
def one_trace(traces: dict[int, TracedGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    """A target changes what follows the trace: one per drop serves all tests."""

    def trace(task_group: TaskGroup, plan: Plan) -> TracedGroup:
        if plan.drop not in traces:
            traces[plan.drop] = trace_group(task_group, plan)
        return replace(traces[plan.drop], model=traces[plan.drop].model.clone())

    monkeypatch.setattr(exporter.variant, "trace_group", trace)


@pytest.mark.parametrize(("target", "precision"), [*USUAL, *swept(*(case for case in CASES if case not in USUAL))])
def test_a_target_is_right_and_what_it_says(model: Any, tmp_path: Path, target: str, precision: str) -> None:
    texts = _texts(tmp_path / "texts.jsonl", labels=False) if needs_ranges(target, precision) else None
    words = None if texts is None else tokenizer()
    folder = tmp_path / "onnx"
    export(model, words, drop=1, target=target, precision=precision, calibration=texts, routed=True, output=folder)
    for name in ("model_routed.onnx", "model.onnx"):
        graph = onnx.load(tmp_path / "onnx" / name, load_external_data=False).graph
        own = {node.op_type for node in graph.node if node.domain == "com.microsoft"}
        assert own == FUSED.get(target, set()) | INTEGERS.get((target, precision), set())
        assert target != "cuda" or "routed" in name or not _on_lengths(graph)
    kinds = {onnx.TensorProto.DataType.Name(value.data_type) for value in graph.initializer}
    assert ("INT8" in kinds) == (precision == "int8")
    assert ("FLOAT16" in kinds) == (precision == "fp16")
    manifest = runtime.load(tmp_path / "onnx", provider="cpu").manifest
    assert (manifest.target, manifest.precision) == (target, precision)
    for shape in ((1, 1), (3, 9), (2, 17)):
        feeds = inputs(shape, VOCABULARY)
        answers = run_graph(tmp_path / "onnx", feeds)
        for task in TASKS:
            expected = reference(model, task, feeds, 1)
            assert answers[task].dtype == np.float32
            assert np.abs(answers[task] - expected).max() <= TOLERANCES[precision] * max(1.0, np.abs(expected).max())


def _on_lengths(graph: onnx.GraphProto) -> list[str]:
    """The operators that compute lengths from lengths, which the CUDA provider leaves to the CPU."""
    lengths, known, found = set(), {value.name for value in graph.initializer}, []
    for node in graph.node:
        if node.op_type == "Shape":
            lengths.update(node.output)
        elif lengths.intersection(node.input) and (lengths | known).issuperset(node.input) and node.op_type != "Slice":
            found.append(node.op_type)
            lengths.update(node.output)
    return found


def test_a_mistake_that_rounding_would_hide_is_found(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter.verify.verify, "eager", lambda *arguments: [field + 0.01 for field in eager(*arguments)])
    with pytest.raises(VerificationError, match=r"max .onnx - torch. 1.0\de-02, over 1.00e-04"):
        export(model, precision="int8", output=tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_precision_that_a_target_lacks_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the target cuda supports fp32, fp16, found int8.*targets portable, cpu"):
        export(model, target="cuda", precision="int8", output=tmp_path / "onnx")


def test_static_ranges_need_texts(model: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"int8 for the target openvino measures the ranges of activations .*: add --calibration FILE"
    ):
        export(model, target="openvino", precision="int8", output=tmp_path / "onnx")


@pytest.mark.parametrize("target", ["cpu", *swept("portable")])
def test_calibrated_ranges_depend_on_no_text(model: Any, tmp_path: Path, target: str) -> None:
    options: dict[str, Any] = {"precision": "int8", "int8_ranges": "calibrated", "target": target}
    with pytest.raises(ExportError, match=f"int8 for the target {target} measures the ranges .*: add --calibration FILE"):
        export(model, output=tmp_path / "onnx", **options)
    texts = _texts(tmp_path / "texts.jsonl", labels=False)
    report = export(model, tokenizer(), calibration=texts, evaluation=texts, output=tmp_path / "onnx", **options)
    kinds = {node.op_type for node in onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph.node}
    assert "QuantizeLinear" in kinds
    assert not kinds & {"DynamicQuantizeLinear", "ReduceMax"}
    assert {(row.changed_by_padding, row.changed_by_batch) for row in report.variants[0].evaluation} == {(0, 0)}


def test_one_range_for_the_batch_is_reported(model: Any, tmp_path: Path) -> None:
    """The evaluation counts what the other texts change."""
    texts = _texts(tmp_path / "texts.jsonl", labels=False)
    report = export(model, tokenizer(), precision="int8", int8_ranges="tensor", evaluation=texts, output=tmp_path / "onnx")
    for row in report.variants[0].evaluation:
        assert row.changed_by_padding is not None
        assert row.changed_by_batch is not None


def _texts(path: Path, labels: bool) -> Path:
    texts = ("a fine film", "no", "well, well", "why not", "it rains", "the sea")
    rows = [{"text": text} | ({"label": number % 2} if labels else {}) for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_that_take_no_member_away_change_no_branch(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter.variant, "prune", lambda *_: pytest.fail("pruned again"))
    texts = _texts(tmp_path / "t.jsonl", labels=False)
    report = export(model, tokenizer(), tasks=["a"], drop=1, calibration=texts, output=tmp_path / "onnx")
    assert [row.task for row in report.variants[0].drift] == ["a"]


def test_required_space_covers_weights_and_the_proved_copy(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(_: Path, needed: int) -> None:
        asked.append(needed)
        raise ExportError("enough")

    monkeypatch.setattr(exporter.export_tasks, "check_space", note)
    for precision in ("fp32", "fp16", "int8"):
        with pytest.raises(ExportError, match="enough"):
            export(model, precision=precision, drop=[0, 1], output=tmp_path / "onnx")
    whole = asked[0]
    assert asked[1:] == [whole // 2 + whole, whole // 4 + whole]  # the variant without a drop holds all weights


def test_evaluation_texts_show_what_a_precision_costs(model: Any, tmp_path: Path) -> None:
    labelled = _texts(tmp_path / "a.jsonl", labels=True)
    report = export(model, tokenizer(), precision="int8", evaluation={"a": labelled}, output=tmp_path / "onnx")
    (row,) = report.variants[0].evaluation
    assert row.task == "a"
    assert row.metric == "accuracy"
    assert 0 < row.max_abs < TOLERANCES["int8"]
    assert row.argmax_agreement is not None
    assert (row.changed_by_padding, row.changed_by_batch) == (0, 0)
    assert report.to_dict()["evaluation"][0]["metric_after"] == row.metric_after


def test_tasks_that_have_one_file_share_the_runs_of_the_graph(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = _texts(tmp_path / "t.jsonl", labels=False)
    runs: list[list[str]] = []
    evaluate = exporter.verify.evaluate.evaluate

    def counted(task_groups: Any, plan: Plan, graph: Any, evaluation: Any) -> Any:
        def run(names: list[str], feeds: Any) -> Any:
            runs.append(names)
            return graph.run(names, feeds)

        return evaluate(task_groups, plan, SimpleNamespace(run=run), evaluation)

    monkeypatch.setattr(exporter.variant, "evaluate", counted)
    both = export(model, tokenizer(), evaluation=texts, output=tmp_path / "both").variants[0].evaluation
    assert runs == [["a", "b"]]  # six short texts are one batch
    copy = shutil.copyfile(texts, tmp_path / "copy.jsonl")
    each = export(model, tokenizer(), evaluation={"b": texts, "a": copy}, output=tmp_path / "each").variants[0].evaluation
    assert runs[1:] == [["b"], ["a"]]
    assert [row.task for row in each] == ["b", "a"]
    assert both == each[::-1]


def test_predictions_that_differ_too_often_are_refused(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter.verify.evaluate, "eager", lambda *arguments: [-field for field in eager(*arguments)])
    with pytest.raises(VerificationError, match=r"differs from PyTorch on more than 10.00% of the evaluation texts"):
        export(
            model,
            tokenizer(),
            evaluation=_texts(tmp_path / "t.jsonl", labels=False),
            max_disagreement=0.1,
            output=tmp_path / "o",
        )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_disagreement": 0.1}, "max_disagreement needs evaluation texts"),
        ({"max_disagreement": 2, "evaluation": "t.jsonl"}, "must be a share from 0 to 1, found 2"),
        ({"evaluation": {"z": "t.jsonl"}}, "unknown task 'z' in evaluation; tasks: a, b"),
        ({"evaluation": "labelled.jsonl"}, "belong to one task: choose it"),
    ],
)
def test_wrong_evaluations_are_refused(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _texts(Path("t.jsonl"), labels=False)
    _texts(Path("labelled.jsonl"), labels=True)
    with pytest.raises(ExportError, match=message):
        export(model, tokenizer(), output="onnx", **options)
