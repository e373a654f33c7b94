"""PEFT models: each method traced and bound against eager PEFT; pruning, structures and refusals."""

from __future__ import annotations

import copy
import itertools
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import peft
import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileViTConfig,
    MobileViTForImageClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from exporter import export
from exporter.errors import ExportError
from exporter.models.binding import remove_others, task_weights
from exporter.models.inputs import max_lengths
from exporter.models.peft import activate, adapters_of, layers_of, layers_without_adapter, prune, structure_of
from exporter.models.peft_modules import is_peft, layer_of
from exporter.models.peft_structure import label_count
from exporter.models.quiet_libraries import quiet
from exporter.plan import Head, Task
from exporter.trace.trace import light_trace
from runtime.bundle import InputEntry, read_manifest
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, inputs, lowest_layers, run_graph
from tests.helpers.tiny_peft import METHODS, answer, config, inject, peft_model, scramble

SHAPES = ((1, 3), (4, 11), (5, 2))  # the trace sees 2 x 7
HEADS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "TOKEN_CLS": (BertForTokenClassification, ("logits",)),
    "QUESTION_ANS": (BertForQuestionAnswering, ("start_logits", "end_logits")),
}


def task(name: str, drop: int = 0) -> Task:
    return Task(name, name, Head(None, "classification", (), 1, ""), drop, {}, "", (name,))


def test_tasks_with_other_weights_are_refused() -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "other": nn.Linear(2, 2, bias=False)})
    with pytest.raises(ExportError, match=r"for 'one' and 'other' in .*found differences in bias: train both with one config"):
        task_weights(model, [task("one"), task("other")])


def shared_copy(model: Any) -> Any:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def reference(model: Any, name: str, feeds: dict[str, np.ndarray], drop: int = 0) -> np.ndarray:
    """By PEFT's own means: a deep copy in which the adapters of the dropped layers are disabled, not removed."""
    model = copy.deepcopy(model).eval()
    model.set_adapter(name)
    layers = lowest_layers(model.config, drop)
    for path, module in model.named_modules():
        if any(layer in path for layer in layers) and hasattr(module, "enable_adapters"):
            module.enable_adapters(False)
    logits: np.ndarray = answer(model, feeds).logits.numpy()
    return logits


class _Fields(torch.nn.Module):
    def __init__(self, model: Any, fields: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.fields = fields

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(input_ids=ids, attention_mask=mask, token_type_ids=segments)
        return tuple(output[field] for field in self.fields)


def traced(model: Any, fields: Sequence[str] = ("logits",)) -> ir.Model:
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", min=1, max=48)}
    example = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in range(3))
    module = _Fields(model, fields).eval()
    with torch.no_grad(), quiet(), light_trace():
        program = torch.onnx.export(
            module, example, dynamo=True, dynamic_shapes=(axes, axes, axes), optimize=False, verbose=False, opset_version=20
        )
    assert program is not None
    return program.model


def run(graph: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, feeds.values(), strict=True))))


@pytest.mark.parametrize("method", ["lora", *swept(*(name for name in METHODS if name != "lora"))])
def test_one_trace_serves_adapters_of_one_structure(method: str) -> None:
    model = peft_model(METHODS[method])
    tasks = [task("first", drop=1), task("second", drop=1)]
    assert structure_of(model, "first", "first", 1) == structure_of(model, "second", "second", 1)
    pruned = shared_copy(model)
    prune(pruned, tasks)
    activate(pruned, tasks[0])
    graph = traced(pruned)
    initializers = graph.graph.initializers
    others = [tensor.detach().numpy() for key, tensor in model.named_parameters() if ".second" in key or ".third" in key]
    arrays = [value.const_value.numpy() for value in initializers.values() if value.const_value is not None]
    assert not any(np.array_equal(array, other) for array in arrays for other in others if other.any())
    bound = task_weights(pruned, tasks)
    assert bound
    assert all(f"model.{key}" in initializers for key in bound)
    for number, name in enumerate(("first", "second")):
        for key, tensors in bound.items():
            initializers[f"model.{key}"].const_value = ir.tensor(tensors[number].numpy())
        for shape in SHAPES:
            feeds = inputs(shape)
            expected = reference(model, name, feeds, drop=1)
            assert not np.allclose(expected, reference(model, "third", feeds, drop=1), atol=1e-3)
            assert_parity(run(graph, feeds)[0], expected)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_tokens_and_answers(kind: str) -> None:
    head, fields = HEADS[kind]
    lora = peft.LoraConfig(task_type=kind, target_modules=["query"])
    model = peft_model(lora, base=head(config(num_hidden_layers=1)))
    activate(model, task("second"))
    graph = traced(model, fields)
    for shape in SHAPES:
        expected = answer(model, inputs(shape))
        for found, field in zip(run(graph, inputs(shape)), fields, strict=True):
            assert_parity(found, expected[field].numpy())


@pytest.mark.parametrize("method", METHODS)
def test_pruning_leaves_the_users_model_alone(method: str) -> None:
    model = peft_model(METHODS[method])
    model.set_adapter("third")
    model.base_model.disable_adapter_layers()
    model.train()
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    pruned = shared_copy(model)
    prune(pruned, [task("second", drop=1)])
    assert model.active_adapter == "third"
    assert model.training
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(
        tensor.data_ptr() == before[key][0] and tensor.equal(before[key][1]) for key, tensor in model.state_dict().items()
    )
    shared = {pointer for pointer, _ in before.values()}
    for key, tensor in pruned.state_dict().items():
        assert tensor.data_ptr() in shared
        assert "first" not in key
        assert "third" not in key
        assert not (".layer.0." in key and any(part in key for part in ("second", "base_layer", "original_module")))
    assert 0 in layers_without_adapter(pruned, task("second"))
    model.base_model.enable_adapter_layers()
    feeds = inputs((3, 5))
    assert_parity(answer(pruned, feeds).logits.numpy(), reference(model, "second", feeds, drop=1))


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "vera"])
def test_merged_adapters_leave_the_copy_only(method: str) -> None:
    model = peft_model(METHODS[method])
    feeds = inputs((3, 5))
    expected = reference(model, "first", feeds)
    model.set_adapter("second")
    model.merge_adapter()
    merged = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ExportError, match="unmerge_adapter"):
        activate(model, task("first"))
    pruned = shared_copy(model)
    prune(pruned, [task("first")])
    assert all(tensor.equal(merged[key]) for key, tensor in model.state_dict().items())
    np.testing.assert_allclose(answer(pruned, feeds).logits.numpy(), expected, atol=1e-5)


def test_an_adapter_without_a_head_uses_the_base_models_head() -> None:
    model = peft_model(peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"]), ["own"])
    model.add_adapter("none", peft.LoraConfig(target_modules=["query"]))
    scramble(model)
    assert structure_of(model, "own", "own", 0) != structure_of(model, "none", "none", 0)
    for name in ("own", "none"):
        pruned = shared_copy(model)
        prune(pruned, [task(name)])
        assert_parity(answer(pruned, inputs((2, 4))).logits.numpy(), reference(model, name, inputs((2, 4))))


def test_structures_differ_where_graphs_do() -> None:
    lora: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 4, "target_modules": ["query"]}
    model = peft_model(peft.LoraConfig(**lora), ["plain", "dropout"])
    different: dict[str, dict[str, Any]] = {
        "rank": {"r": 2, "lora_alpha": 4},
        "targets": {"target_modules": ["key"]},
        "layers": {"layers_to_transform": [1]},
        "dora": {"use_dora": True},
    }
    for name, settings in different.items():
        model.add_adapter(name, peft.LoraConfig(**{**lora, **settings}))
    model.add_adapter("alpha", peft.LoraConfig(**{**lora, "lora_alpha": 3}))
    classifier = model.base_model.model.classifier.modules_to_save
    classifier["dropout"] = torch.nn.Linear(32, 5)
    structures = {name: structure_of(model, name, name, 0) for name in adapters_of(model)}
    assert structures["plain"] == structures["dropout"] == structures["alpha"]
    assert (label_count(model, "plain"), label_count(model, "dropout")) == (2, 5)
    assert all(structures["plain"] != structures[name] for name in different)
    # Without layer 0, two of them have adapters in the same places.
    assert structure_of(model, "plain", "plain", 1) == structure_of(model, "layers", "layers", 1)
    assert layers_without_adapter(model, task("layers")) == (0,)
    assert layers_without_adapter(model, task("plain", drop=2)) == (0, 1)


def test_layers_by_name() -> None:
    names = {
        "base_model.model.bert.encoder.layer.11.attention.self.query": 11,
        "transformer.h.3.attn.c_attn": 3,
        "albert.encoder.albert_layer_groups.2.albert_layers.0.attention": 2,
        "model.layers.0": 0,
        "bert.embeddings.word_embeddings": None,
        "classifier.dense.0": None,
    }
    assert {name: layer_of(name) for name in names} == names
    albert = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 101}
    lora = peft.LoraConfig(target_modules=["query"])
    grouped = AlbertForSequenceClassification(AlbertConfig(num_hidden_layers=4, num_hidden_groups=2, **albert))
    assert layers_of(peft_model(lora, ["a"], grouped)) == 2
    bart = BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, vocab_size=101
    )
    assert layers_of(peft_model(peft.LoraConfig(target_modules=["q_proj"]), ["a"], BartForSequenceClassification(bart))) == 2
    assert [layer_of(f"model.{stack}.layers.1.fc1", 6) for stack in ("encoder", "decoder")] == [1, 7]


@pytest.mark.parametrize("method", ["patterns", "vera"])
def test_the_weights_of_the_traced_task(method: str) -> None:
    model = peft_model(METHODS[method])
    expected = reference(model, "second", inputs((3, 5)))
    tasks = [task(name) for name in ("second", "first", "third")]
    activate(model, tasks[0])
    remove_others(model, tasks)
    left = {part for key in model.state_dict() for part in key.split(".")}
    assert left & {"first", "second", "third"} == {"second"}
    assert_parity(reference(model, "second", inputs((3, 5))), expected)


@pytest.mark.sweep
def test_only_a_drop_needs_the_names_of_layers(tmp_path: Path) -> None:
    mobile = MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32], num_attention_heads=4
    )
    model = peft_model(peft.LoraConfig(target_modules=["query"]), ["first"], MobileViTForImageClassification(mobile))
    with pytest.raises(ExportError, match=r"MobileViTForImageClassification are not recognized .* only drop 0 can be exported"):
        export(model, drop=1, output=tmp_path / "onnx")
    export(model, output=tmp_path / "onnx")
    feeds = {"pixel_values": np.random.default_rng(0).standard_normal((3, 3, 64, 64), dtype=np.float32)}
    assert_parity(run_graph(tmp_path / "onnx", feeds)["logits"], answer(model.eval(), feeds).logits.numpy())


def test_layers_that_each_stage_numbers_from_0() -> None:
    """Two stages with as many layers as there are stages: layer 0 is not one layer."""
    stages = ConvNextConfig(hidden_sizes=[8, 8], depths=[2, 2], num_stages=2, patch_size=4, image_size=16)
    stages.num_hidden_layers = 2  # transformers 5 gives the number of stages
    settings = peft.LoraConfig(target_modules=["pwconv1"])
    model = peft_model(settings, ["first"], ConvNextForImageClassification(stages))
    with pytest.raises(ExportError, match=r"expected 2 in 1 list\(s\), found 2 different numbers in 2; only drop 0"):
        structure_of(model, "first", "first", 1)
    structure_of(model, "first", "first", 0)


def test_a_drop_reaches_layers_in_a_saved_module(tmp_path: Path) -> None:
    settings = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["pooler.dense"], modules_to_save=["classifier", "encoder"]
    )
    model = peft_model(settings, ["first", "second"])
    assert layers_without_adapter(model, task("first")) == ()
    assert layers_without_adapter(model, task("first", drop=1)) == (0,)
    assert structure_of(model, "first", "first", 0) != structure_of(model, "first", "first", 1)
    export(model, None, drop={"first": 1, "second": 0}, output=tmp_path / "onnx")
    feeds = inputs((3, 5))
    found = run_graph(tmp_path / "onnx", feeds)
    expected = copy.deepcopy(model)
    encoder = expected.base_model.model.bert.encoder
    encoder.modules_to_save["first"].layer[0] = encoder.original_module.layer[0]
    for name in ("first", "second"):
        expected.set_adapter(name)
        assert_parity(found[name], answer(expected, feeds).logits.numpy())


def test_xlnet_has_no_limit(tmp_path: Path) -> None:
    xlnet = XLNetConfig(vocab_size=101, d_model=32, n_layer=2, n_head=4, d_inner=48)
    model = peft_model(peft.LoraConfig(target_modules=["layer_1"]), ["first"], XLNetForSequenceClassification(xlnet))
    report = export(model, output=tmp_path / "onnx")
    assert report.tasks[0].name == "first"
    assert read_manifest(tmp_path / "onnx").max_lengths == {}


@pytest.mark.parametrize(("limit", "expected"), [(-1, {}), (0, {}), (20, {"sequence": 20})])
def test_limits_of_models_without_tables_of_positions(limit: int, expected: dict[str, int]) -> None:
    class Unlimited(torch.nn.Module):
        config = types.SimpleNamespace(max_position_embeddings=limit)

    assert max_lengths(Unlimited(), None, [InputEntry("input_ids", "int64", ("batch", "sequence"), 10)]) == expected


def test_activated_lora_is_refused() -> None:
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], alora_invocation_tokens=[1])
    with pytest.raises(ExportError, match=r"has a ALoraLinearVariant in .*query, which has no static graph: aLoRA starts at"):
        structure_of(peft_model(lora, ["a"]), "a", "a", 0)


def test_other_models_are_refused() -> None:
    lora = peft.LoraConfig(target_modules=["query"])
    injected = BertForSequenceClassification(config())
    inject(injected, lora)
    assert is_peft(injected)
    with pytest.raises(ExportError, match="expected a PeftModel"):
        adapters_of(injected)
    vera = peft_model(peft.VeraConfig(r=4, target_modules=["query"]), ["a"])
    vera.add_adapter("b", peft.VeraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ExportError, match="has rank 2, but PEFT assigned it another adapter's projections of rank 4"):
        structure_of(vera, "b", "b", 0)
    with pytest.raises(ExportError, match="is a composition"):
        structure_of(vera, "a", ["a", "b"], 0)


def test_asking_does_not_import_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    model = peft_model(peft.LoraConfig(target_modules=["query"]), ["a"])
    assert is_peft(model)
    assert not is_peft(model.get_base_model().classifier)
    monkeypatch.delitem(sys.modules, "peft")
    assert not is_peft(torch.nn.Linear(1, 1))
    assert "peft" not in sys.modules
