"""Routed graphs that `export` writes, against single-task PyTorch: any rows, any tasks, over the bundle's own weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from adapters import IA3Config, LoRAConfig, PrefixTuningConfig, SeqBnConfig
from adapters.composition import Fuse
from transformers import BertConfig

import runtime
from exporter import ExportError, Report, VerificationError, export
from exporter import variant as variants
from exporter.compile.build import compile_plan
from runtime.bundle import WEIGHTS, read_manifest
from runtime.ort.known_providers import WEBGPU
from runtime.ort.open_bundle import OpenBundle
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, bert_config, inputs, reference, tiny_model

# Three structures, one of them of a single task, and five label counts.
TASKS = {
    "topic": ("seq_bn", "3"),
    "spam": ("seq_bn", "2"),
    "themes": ("double_seq_bn", "multi"),
    "stars": ("seq_bn", "reg"),
    "mood": (LoRAConfig(r=2), "4"),
    "tone": (LoRAConfig(r=2), "2"),
}
DROPS = (1, 3)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS, bert_config(layers=3))


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export(model, drop=DROPS, routed=True, output=tmp_path_factory.mktemp("routed") / "onnx")


@pytest.fixture(scope="module")
def predictor(exported: Report) -> runtime.Predictor:
    return runtime.load(exported.output, provider="cpu")


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize(
    ("rows", "tasks"),
    [
        ([3, 0, 0, 2, 1, 3, 3], ["tone", "topic", "stars", "themes", "spam", "topic", "mood"]),
        ([4, 1], ["stars", "topic"]),  # fewer than texts, of one structure
        ([0, 1, 2, 3, 4], ["themes"] * 5),
        ([2], ["mood"]),
    ],
)
def test_each_row_equals_single_task_pytorch(
    model: Any, predictor: runtime.Predictor, drop: int, rows: list[int], tasks: list[str]
) -> None:
    feeds = inputs((5, 9))
    answers = predictor.run_routed(feeds, tasks, rows=rows, drop=drop)
    for row, task, answer in zip(rows, tasks, answers, strict=True):
        assert_parity(answer, reference(model, task, feeds, drop)[row])


def test_no_group_is_empty_where_a_provider_needs_rows(
    model: Any, predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Softmax of WebGPU fails on a tensor without rows; tests/gpu/test_webgpu.py runs the provider itself."""
    given = list[Any]()
    run_of = OpenBundle._run_of

    def spied(bundle: OpenBundle, graph: str) -> Any:
        return lambda outputs, feeds: given.append(feeds) or run_of(bundle, graph)(outputs, feeds)  # type: ignore[func-returns-value]

    monkeypatch.setattr(OpenBundle, "_run_of", spied)
    routed = replace(predictor._routed[1], bundle=replace(predictor._bundle, provider=WEBGPU))
    feeds, mood = inputs((5, 9)), predictor.manifest.tasks[predictor.tasks.index("mood")]
    (answer,) = routed.rows(feeds, [mood], np.array([2]))
    assert_parity(answer, reference(model, "mood", feeds, 1)[2])
    numbers = given[0]["task_ids"].tolist()
    assert numbers[0] == predictor.tasks.index("mood")
    # One task of each structure.
    structure = {"topic": 0, "spam": 0, "stars": 0, "themes": 1, "mood": 2, "tone": 2}
    assert sorted(structure[predictor.tasks[number]] for number in numbers[1:]) == [0, 1, 2]
    assert given[0]["row_ids"].tolist() == [2, 0, 0, 0]


def test_some_tasks_are_answered_as_all_are(model: Any, predictor: runtime.Predictor) -> None:
    feeds = inputs((2, 6))
    answers = predictor.run(feeds, ["mood", "spam"])
    assert list(answers) == ["mood", "spam"]
    for task, answer in answers.items():
        assert_parity(answer, reference(model, task, feeds, DROPS[0]))


def test_the_bundle_lists_its_routed_graphs(exported: Report) -> None:
    names = [variant.routed for variant in read_manifest(exported.output).variants]
    assert names == ["model_routed.onnx", "model_drop3_routed.onnx"] == [variant.routed for variant in exported.variants]
    assert all((exported.output / name).exists() for name in names)


def test_the_weights_are_those_of_the_other_graph(exported: Report, model: Any, tmp_path: Path) -> None:
    export(model, drop=DROPS, output=tmp_path / "plain")
    plain, routed = ((folder / WEIGHTS).stat().st_size for folder in (tmp_path / "plain", exported.output))
    # Heads of one structure, padded to the most labels and stacked; the other graph keeps them apart.
    assert routed - plain < 8_000 < 0.1 * plain


def test_methods_whose_weights_broadcast(tmp_path: Path) -> None:
    """Vectors and prefixes of each task, and a fusion, which reads its members' results."""
    prefix = PrefixTuningConfig(flat=True, prefix_length=3)
    tasks = {"a": (IA3Config(), "2"), "b": (IA3Config(), "3"), "c": (prefix, "2"), "d": (prefix, "2")}
    model = tiny_model({**tasks, "e": ("seq_bn", "2"), "f": ("seq_bn", "2")})
    model.add_adapter_fusion(Fuse("e", "f"))
    model.add_classification_head("fused", num_labels=2)
    export(model, tasks={name: name for name in "abcd"} | {"fused": Fuse("e", "f")}, routed=True, output=tmp_path / "onnx")
    feeds = inputs((3, 5))
    rows, names = [2, 2, 1, 0, 2, 0], ["b", "c", "fused", "d", "a", "c"]
    for row, name, answer in zip(rows, names, runtime.load(tmp_path / "onnx").run_routed(feeds, names, rows=rows), strict=True):
        setup = Fuse("e", "f") if name == "fused" else name
        assert_parity(answer, reference(model, setup, feeds, head=name)[row])


@pytest.mark.parametrize(("target", "precision"), [("cuda", "fp16"), *swept(("cpu", "fp32"), ("portable", "int8"))])
def test_groups_without_rows_in_other_targets(tmp_path: Path, target: str, precision: str) -> None:
    """Verification runs each structure separately, so that the other one has no rows, with fused or quantized operators."""
    # Large enough that its products are worth quantizing.
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=101,
        max_position_embeddings=48,
    )
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "c": ("double_seq_bn", "2")}, config)
    report = export(model, target=target, precision=precision, routed=True, output=tmp_path / "onnx")
    assert {row.task for row in report.parity} == {"a", "b", "c"}


@pytest.mark.parametrize("target", ["cpu", *swept("portable")])
def test_a_selection_of_tasks_answers_as_all_of_them_in_int8(tmp_path: Path, target: str) -> None:
    """`run` takes the routed graph for a selection; adapters in floats there gave other labels for one text of 100."""
    config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=101)
    wide = SeqBnConfig(reduction_factor=2)  # adapters that are worth quantizing
    kinds = {"a": (wide, "2"), "b": (wide, "3"), "c": (LoRAConfig(r=2), "2"), "d": (wide, "reg"), "e": ("seq_bn", "4")}
    model = tiny_model(kinds, config)
    output = tmp_path / "onnx"
    export(model, target=target, precision="int8", routed=True, output=output)
    products = [node.op_type for node in ir.load(output / "model_routed.onnx").graph if "Integer" in node.op_type]
    assert len(products) > 20
    predictor = runtime.load(output, provider="cpu", threads=1)
    feeds = inputs((1, 9))
    together = predictor.run(feeds)
    for task in kinds:
        np.testing.assert_allclose(predictor.run(feeds, [task])[task], together[task], rtol=0, atol=1e-5)
        (routed,) = predictor.run_routed(feeds, [task])
        np.testing.assert_allclose(routed, together[task][0], rtol=0, atol=1e-5)


def test_heads_with_more_than_a_vector_are_refused_early(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "words": ("seq_bn", "tag"), "b": ("seq_bn", "2")})
    with pytest.raises(ExportError, match=r"found words \(tagging\): select the others with --tasks a,b, or omit"):
        export(model, routed=True, output=tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_routed_graph_that_differs_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*arguments: Any, **options: Any) -> Any:
        compiled = compile_plan(*arguments, **options)
        assert compiled.routed is not None
        for value in compiled.routed.graph.initializers.values():
            if value.const_value is not None and value.const_value.shape.rank() == 3:  # the first stack of task weights
                value.const_value = ir.tensor(np.flip(value.const_value.numpy(), 0).copy(), name=value.name)
                break
        return compiled

    monkeypatch.setattr(variants, "compile_plan", swapped)
    with pytest.raises(VerificationError, match="a at 1x1: max"):
        export(tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "2")}), routed=True, output=tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
