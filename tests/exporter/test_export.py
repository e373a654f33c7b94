"""`export` from a live model to a folder: numbers, sizes, names, and what is handed back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from adapters import AutoAdapterModel
from transformers import BertConfig

import runtime
from exporter import ExportError, Report, VerificationError, export
from exporter.models.heads import find_head
from exporter.write.save import save_config
from exporter.write.staging import staged
from runtime.bundle import read_manifest
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import (
    MAX_LENGTH,
    add_task,
    assert_parity,
    bert_config,
    inputs,
    reference,
    run_graph,
    tiny_model,
    tokenizer,
)

LAYERS, DROP = 3, 1
TASKS = {
    "topic": ("seq_bn", "3"),
    "spam": ("seq_bn", "2"),
    "stars": ("seq_bn", "reg"),
    "themes": ("double_seq_bn", "multi"),
    "words": ("par_bn", "tag"),
    "layer": ("double_seq_bn", "pooler"),  # named like a part of the trunk
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS, bert_config(layers=LAYERS))


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("mixed") / "onnx"
    return folder, export(model, drop=DROP, output=folder)


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (7, 9), (4, MAX_LENGTH)])
def test_every_task_equals_single_task_pytorch(model: Any, exported: tuple[Path, Report], shape: tuple[int, int]) -> None:
    feeds = inputs(shape)
    answers = run_graph(exported[0], feeds)
    assert list(answers) == list(TASKS)
    for task, answer in answers.items():
        assert_parity(answer, reference(model, task, feeds, DROP))


def test_dropping_changes_the_answers(model: Any) -> None:
    feeds = inputs((2, 9))
    assert abs(reference(model, "topic", feeds, 0) - reference(model, "topic", feeds, DROP)).max() > 1e-3


def test_the_graph_is_standard_onnx_with_dynamic_axes(exported: tuple[Path, Report]) -> None:
    graph = onnx.load(exported[0] / "model.onnx", load_external_data=False)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 20)]
    assert [value.name for value in graph.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    for value in graph.graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    onnx.checker.check_model(exported[0] / "model.onnx", full_check=True)


def test_no_path_of_this_machine_is_in_the_folder(exported: tuple[Path, Report]) -> None:
    needles = [str(Path(torch.__file__).parent.parent).encode(), str(Path(__file__).parents[2]).encode(), b"site-packages"]
    for path in exported[0].iterdir():
        content = path.read_bytes()
        assert not [needle for needle in needles if needle in content], path.name


def test_the_file_holds_trunk_once_and_each_adapter_once(model: Any, exported: tuple[Path, Report]) -> None:
    skipped = ("layer.0.output.adapters", "layer.0.attention.output.adapters", "prompt_tuning")
    expected = sum(p.nbytes for name, p in model.named_parameters() if not any(part in name for part in skipped))
    size = exported[1].graph.initializer_bytes
    # Masks, positions and shapes are a few constants on top.
    assert expected <= size <= expected + 4096
    assert exported[1].graph.shared_bytes + exported[1].graph.task_bytes == size


def test_the_report_says_what_happened(exported: tuple[Path, Report]) -> None:
    folder, report = exported
    assert report.output == folder
    assert [task.name for task in report.tasks] == list(TASKS)
    assert [task.head for task in report.tasks] == [
        "classification",
        "classification",
        "regression",
        "multilabel",
        "tagging",
        "classification",
    ]
    # Label counts do not separate tasks, adapters and pooling do.
    assert [task.group for task in report.tasks] == [0, 0, 0, 1, 2, 3]
    for task in report.tasks:
        shapes = {(row.batch, row.sequence) for row in report.parity if row.task == task.name}
        assert (2, 7) not in shapes  # the traced one
        assert len(shapes) >= 3
    assert all(row.max_abs_diff <= row.tolerance for row in report.parity)
    assert report.graph.trunk_nodes > 0
    assert report.graph.passes[0].nodes_before > report.graph.nodes / 2
    assert set(report.seconds) == {"load", "prune", "trace", "compile", "save", "verify"}
    assert "layer 0" in report.variants[0].shared
    assert json.loads(json.dumps(report.to_dict()))["drop"] == DROP


def test_the_manifest_describes_the_folder(exported: tuple[Path, Report]) -> None:
    manifest = read_manifest(exported[0])
    assert manifest.drops == (DROP,)
    assert manifest.layers == LAYERS
    assert manifest.max_lengths == {"sequence": MAX_LENGTH}
    assert manifest.variant().tasks["topic"].dropped == (0,)
    assert set(manifest.files) == {path.name for path in exported[0].iterdir()} - {"adapterdrop.json"}


def test_the_runtime_answers_all_tasks(model: Any, exported: tuple[Path, Report]) -> None:
    answers = runtime.load(exported[0], provider="cpu").run(inputs((3, 8)))
    assert list(answers) == list(TASKS)
    for task, answer in answers.items():
        assert_parity(answer, reference(model, task, inputs((3, 8)), DROP))


@pytest.mark.usefixtures("fresh_traces")
def test_a_live_model_is_handed_back_unchanged(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3")}, bert_config(layers=LAYERS))
    model.train()
    model.set_active_adapters("b", skip_layers=[1])
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    setup, head, config = str(model.active_adapters), model.active_head, model.config.to_json_string()
    export(model, drop=2, output=tmp_path / "onnx")
    after = model.state_dict()
    assert list(after) == list(before)
    for name, (pointer, value) in before.items():
        assert after[name].data_ptr() == pointer
        assert torch.equal(after[name], value)
    assert (str(model.active_adapters), model.active_head, model.config.to_json_string()) == (setup, head, config)
    assert model.adapters_config.skip_layers == [1]
    assert all(module.training for module in model.modules())


def test_a_half_precision_model_is_exported_in_fp32_unchanged(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")}).to(torch.bfloat16)
    export(model, output=tmp_path / "onnx")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    feeds = inputs((2, 5))
    assert_parity(run_graph(tmp_path / "onnx", feeds)["logits"], reference(model.to(torch.float32), "a", feeds))


def test_tuples_and_chunks_change_nothing(tmp_path: Path) -> None:
    """Such a model returns tuples, and takes only lengths that are multiples of its chunks."""
    config = bert_config()
    config.torchscript, config.chunk_size_feed_forward = True, 4
    tasks = {"sst": ("seq_bn", "2")}
    model = tiny_model(tasks, config)
    export(model, output=tmp_path)
    assert (model.config.torchscript, model.bert.encoder.layer[0].chunk_size_feed_forward) == (True, 4)
    model.eval().set_active_adapters("sst")
    feeds = inputs((3, 8))
    with torch.no_grad():
        (expected,) = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    assert_parity(run_graph(tmp_path, feeds)["logits"], expected.numpy())
    feeds = inputs((2, 7))
    assert_parity(run_graph(tmp_path, feeds)["logits"], reference(tiny_model(tasks), "sst", feeds))


def test_tasks_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "2"), "c": ("seq_bn", "2"), "language": ("seq_bn", "2")})
    model.delete_head("language")
    export(model, tasks=["c", "a"], output=tmp_path / "onnx")
    feeds = inputs((2, 5))
    answers = run_graph(tmp_path / "onnx", feeds)
    assert list(answers) == ["c", "a"]
    assert_parity(answers["c"], reference(model, "c", feeds))


@pytest.mark.sweep
def test_the_number_of_tasks_does_not_change_the_graph(tmp_path: Path) -> None:
    nodes = {}
    for count in (2, 24):
        model = tiny_model({f"t{number}": ("seq_bn", "2") for number in range(count)}, bert_config(layers=LAYERS))
        report = export(model, drop=1, output=tmp_path / f"onnx{count}")
        graph = onnx.load(tmp_path / f"onnx{count}" / "model.onnx", load_external_data=False).graph
        outputs = {value.name for value in graph.output}
        nodes[count] = [node.op_type for node in graph.node if not outputs & set(node.output)]
        assert report.graph.nodes == len(graph.node)
    assert nodes[2] == nodes[24]


def test_a_graph_that_differs_is_never_left_on_disk(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"nothing was written:\n  a at 1x1: max "):
        export(tiny_model({"a": ("seq_bn", "2")}), output=tmp_path / "onnx", atol=1e-15)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_folder_it_was_to_replace(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    export(model, output=tmp_path / "onnx")
    before = (tmp_path / "onnx" / "adapterdrop.json").read_bytes()
    with pytest.raises(VerificationError, match=r"nothing was written:\n  a at 1x1: max "):
        export(model, output=tmp_path / "onnx", atol=1e-15, overwrite=True)
    assert (tmp_path / "onnx" / "adapterdrop.json").read_bytes() == before
    export(model, output=tmp_path / "onnx", drop=1, overwrite=True)
    assert read_manifest(tmp_path / "onnx").drops == (1,)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


@pytest.mark.parametrize("opset", [17, *swept(24)])
def test_other_operator_sets(tmp_path: Path, opset: int) -> None:
    model = tiny_model({"a": ("seq_bn", "tag"), "b": ("seq_bn", "tag")})
    export(model, output=tmp_path / "onnx", opset=opset)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False)
    assert graph.opset_import[0].version == opset
    feeds = inputs((2, 5))
    assert_parity(run_graph(tmp_path / "onnx", feeds)["b"], reference(model, "b", feeds))


def test_one_task_loads_in_optimum(tmp_path: Path) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification

    from tests.helpers.tiny_models import bert_config

    words = tokenizer()
    model = tiny_model({}, bert_config(len(words), LAYERS))
    add_task(model, "mood", "seq_bn", "3")
    model.heads["mood"].config["label2id"] = {"bad": 0, "fair": 1, "good": 2}
    export(model, words, drop=2, output=tmp_path / "onnx")
    loaded = ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx")
    assert loaded.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    batch = words(["a fine day", "rain again, all day long"], padding=True, return_tensors="pt")
    feeds = {name: value.numpy() for name, value in batch.items()}
    assert_parity(loaded(**batch).logits.numpy(), reference(model, "mood", feeds, 2))
    prediction = runtime.load(tmp_path / "onnx").predict(["a fine day"])["mood"][0]
    assert prediction.label in ("bad", "fair", "good")


@pytest.mark.parametrize(
    ("kind", "labels", "problem"),
    [
        ("multilabel", ("a", "b"), "multi_label_classification"),
        ("classification", ("a", "b"), "single_label_classification"),
        ("regression", (), "regression"),
        ("tagging", ("a", "b"), None),
    ],
)
def test_one_task_has_its_problem_type(tmp_path: Path, kind: str, labels: tuple[str, ...], problem: str | None) -> None:
    """A pipeline takes the sigmoid of several labels, the softmax of one, and the logit of a regression."""
    model = SimpleNamespace(config=BertConfig())
    plan: Any = SimpleNamespace(tasks=[SimpleNamespace(head=SimpleNamespace(kind=kind, labels=labels, output_label=""))])
    save_config(model, plan, (), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("problem_type") == problem


def test_the_name_of_a_regression_is_kept(tmp_path: Path) -> None:
    """The base model can have other labels."""
    config = bert_config()
    config.id2label = {0: "no", 1: "yes"}
    model: Any = AutoAdapterModel.from_config(config)
    model.add_classification_head("named", num_labels=1, id2label={0: "stars"})
    model.add_classification_head("unnamed", num_labels=1)
    for name, expected in (("named", "stars"), ("unnamed", "LABEL_0")):
        plan: Any = SimpleNamespace(tasks=[SimpleNamespace(head=find_head(model, name, name))])
        save_config(model, plan, (), tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": expected}


def test_an_unwritable_tokenizer_is_a_disk_error(tmp_path: Path) -> None:
    """The tokenizers library raises a plain Exception there."""
    plan: Any = SimpleNamespace(tasks=())
    refused = pytest.raises(ExportError, match=r"onnx' cannot be written, nothing was kept: .*Is a directory")
    with refused, staged(tmp_path / "onnx", overwrite=False) as folder:
        (folder / "tokenizer.json").mkdir()  # as good as a full disk
        save_config(SimpleNamespace(config=BertConfig()), plan, [tokenizer()], folder)
    assert not list(tmp_path.iterdir())


def test_a_slow_tokenizer_is_converted_or_refused(tmp_path: Path) -> None:
    from transformers import BertTokenizer, CanineTokenizer

    from exporter.example import base_model_folder

    model = tiny_model({"a": ("seq_bn", "2")})
    with pytest.raises(ExportError, match="is a CanineTokenizer, for which transformers has no fast form"):
        export(model, CanineTokenizer(), output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    slow = BertTokenizer(str(base_model_folder() / "vocab.txt"))
    with pytest.raises(ExportError, match=r"the tokenizer has 30,\d+ tokens, the model's vocabulary"):
        export(model, slow, output=tmp_path / "onnx")
