"""`split=True`: the trunk and the branches in two graphs, against single-task PyTorch, and the states between them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from adapters import LoRAConfig, PrefixTuningConfig
from transformers import GPT2Config

import runtime
from exporter import ExportError, Report, VerificationError, add, export
from exporter.split import verify
from exporter.split.cut import cut_states
from runtime.bundle import read_manifest
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import MAX_LENGTH, assert_parity, bert_config, inputs, reference, tiny_model

LAYERS = 3
TASKS = {"topic": ("seq_bn", "3"), "words": ("seq_bn", "tag"), "mood": (LoRAConfig(r=2), "4"), "stars": ("seq_bn", "reg")}
ROUTED = ("topic", "mood", "stars")
DROPS = (2, 1)
# One row, several, the longest, one token.
SHAPES = [(1, 9), (5, 13), (2, MAX_LENGTH), (3, 1)]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS, bert_config(layers=LAYERS))


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("split") / "onnx"
    return export(model, drop=DROPS, split=True, extendable=True, output=folder)


@pytest.fixture(scope="module")
def predictor(exported: Report) -> runtime.Predictor:
    return runtime.load(exported.output, provider="cpu")


@pytest.fixture(scope="module")
def routed(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split_routed") / "onnx"
    return export(model, tasks=ROUTED, drop=2, split=True, routed=True, output=folder).output


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_branches_equal_single_task_pytorch(
    model: Any, predictor: runtime.Predictor, drop: int, shape: tuple[int, int]
) -> None:
    feeds = inputs(shape)
    states = predictor.run_trunk(feeds, drop)
    found = predictor.run_branches(states)
    assert found.drop == drop
    for task in TASKS:
        expected = reference(model, task, feeds, drop)
        if task == "words":  # the padding at the end of a row is gone
            for row, mask in enumerate(feeds["attention_mask"]):
                length = int(np.flatnonzero(mask)[-1]) + 1
                assert_parity(found[task][row, :length], expected[row, :length])
        else:
            assert_parity(found[task], expected)


def test_states_do_not_depend_on_other_texts(predictor: runtime.Predictor) -> None:
    feeds = inputs((6, 21))
    together = predictor.run_branches(predictor.run_trunk(feeds), ["topic", "mood"])
    rows = [predictor.run_trunk({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(6)]
    apart = predictor.run_branches(runtime.TrunkStates.concatenate(rows[::-1]), ["topic", "mood"])
    for task, logits in apart.items():
        assert_parity(logits[::-1], together[task])


def test_one_state_is_kept_where_one_is_enough(exported: Report) -> None:
    manifest = read_manifest(exported.output)
    for entry in manifest.splits.values():
        # Vectors of the hidden size per token or text, and products that LoRA reads; no masks.
        assert all(np.prod([int(axis) for axis in state.shape if axis.isdecimal()]) == 32 for state in entry.states)
        assert 0 < entry.saved < 1
        assert 0 <= entry.half_diff < 0.01
        assert not entry.padding_counts
    deepest = manifest.split(2)
    assert deepest is not None
    assert "input_ids" not in deepest.inputs
    shallow = manifest.split(1)
    assert shallow is not None
    # On its way to the states of layer 2 the trunk computes one of layer 1.
    assert {state.name for state in shallow.states} & {*deepest.passing}
    assert deepest.passing[0] not in shallow.passing


def test_trunk_and_branches_share_the_weights(exported: Report) -> None:
    sizes = {}
    for graph in ("model.onnx", "trunk.onnx", "branches.onnx"):
        values = ir.load(exported.output / graph).graph.initializers.values()
        sizes[graph] = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    assert sizes["trunk.onnx"] + sizes["branches.onnx"] <= 1.2 * sizes["model.onnx"]
    branches = ir.load(exported.output / "branches.onnx").graph
    assert not [name for name in branches.initializers if "layer.0" in name or "embeddings" in name]


@pytest.mark.parametrize("tasks", [None, ["mood"], ["stars", "topic"]])
def test_routed_branches_equal_pytorch(model: Any, routed: Path, tasks: list[str] | None) -> None:
    options = runtime.Options(share_weights=False)  # opens only what runs
    predictor = runtime.load(routed, provider="cpu", state_cache=10**6, options=options)
    feeds = inputs((4, 11))
    for answers in (
        predictor.run_branches(predictor.run_trunk(feeds), tasks),
        predictor.run(feeds, tasks),
        predictor.run(feeds, tasks),
    ):
        assert list(answers) == list(tasks or ROUTED)
        for task, logits in answers.items():
            assert_parity(logits, reference(model, task, feeds, 2))


@pytest.mark.parametrize("task", ["mood", "topic"])
def test_the_graph_of_one_task_is_routed_and_split(model: Any, tmp_path: Path, task: str) -> None:
    """Its routed graph computes other values on the way than its graph, and both read the states of one trunk."""
    folder = export(model, tasks=[task], drop=2, split=True, routed=True, output=tmp_path / "onnx").output
    predictor = runtime.load(folder, provider="cpu", state_cache=1_000_000)
    feeds = inputs((3, 9))
    expected = reference(model, task, feeds, 2)
    for _ in range(2):  # the second call has the states
        for row, answer in zip((2, 0, 2), predictor.run_routed(feeds, [task] * 3, [2, 0, 2]), strict=True):
            assert_parity(answer, expected[row])
    assert predictor.state_cache is not None
    assert predictor.state_cache.hits == 3
    assert_parity(predictor.run_branches(predictor.run_trunk(feeds))[task], expected)


def test_each_depth_has_a_state(model: Any, tmp_path: Path) -> None:
    report = export(model, tasks=["topic", "mood"], drop={"topic": 2, "mood": 1}, split=True, output=tmp_path / "onnx")
    (entry,) = read_manifest(report.output).splits.values()
    assert len({state.identity for state in entry.states}) == len(entry.states) >= 2
    predictor = runtime.load(report.output, provider="cpu")
    feeds = inputs((3, 8))
    found = predictor.run_branches(predictor.run_trunk(feeds))
    assert_parity(found["topic"], reference(model, "topic", feeds, 2))
    assert_parity(found["mood"], reference(model, "mood", feeds, 1))


def test_states_outlive_added_tasks(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    old = tiny_model(TASKS, bert_config(layers=LAYERS))
    for name in ("stars", "mood", "words"):
        old.delete_adapter(name)
        old.delete_head(name)
    export(old, drop=2, split=True, extendable=True, output=folder)
    feeds = inputs((3, 14))
    states = runtime.load(folder, provider="cpu").run_trunk(feeds)
    wider = tiny_model(TASKS, bert_config(layers=LAYERS))
    for name in ("topic", "mood", "words"):
        wider.delete_adapter(name)
        wider.delete_head(name)
    report = add(folder, model=wider)
    assert report.variants[0].split is not None
    found = runtime.load(folder, provider="cpu").run_branches(states, ["stars"])
    assert_parity(found["stars"], reference(model, "stars", feeds, 2))


def test_states_of_another_trunk_are_refused(predictor: runtime.Predictor, tmp_path: Path) -> None:
    model = tiny_model({"topic": ("seq_bn", "3")}, bert_config(layers=LAYERS), seed=1)
    other = export(model, drop=2, split=True, output=tmp_path / "other").output
    feeds = inputs((2, 6))
    for drop, source in ((2, runtime.load(other, provider="cpu")), (1, predictor)):
        states = source.run_trunk(feeds, drop)
        with pytest.raises(runtime.InputError, match="other layers or weights, or another precision"):
            predictor.run_branches(states, drop=2)


@pytest.mark.parametrize(
    ("precision", "target"), [("int8", "cpu"), *swept(("fp16", "portable"), ("int8", "portable"), ("fp32", "cpu"))]
)
def test_every_precision_can_be_split(model: Any, tmp_path: Path, precision: str, target: str) -> None:
    report = export(
        model, tasks=ROUTED, drop=2, split=True, routed=True, precision=precision, target=target, output=tmp_path / "onnx"
    )
    predictor = runtime.load(report.output, provider="cpu")
    feeds = inputs((4, 12))
    found, expected = predictor.run_branches(predictor.run_trunk(feeds)), predictor.run(feeds)
    tolerance = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.05}[precision]
    for task, logits in expected.items():
        np.testing.assert_allclose(found[task], logits, atol=tolerance)


@pytest.mark.sweep
def test_a_decoder_reads_its_last_token(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=LAYERS, n_embd=32, n_head=4, vocab_size=101, n_positions=MAX_LENGTH, pad_token_id=0)
    model = tiny_model({"a": ("seq_bn", "3"), "b": ("seq_bn", "2")}, config)
    folder = export(model, drop=1, split=True, output=tmp_path / "onnx").output
    predictor = runtime.load(folder, provider="cpu", state_cache=10**6)
    feeds = inputs((4, 10), segments=False)
    feeds["attention_mask"][:] = np.arange(10) < np.array([[10], [4], [7], [1]])
    feeds["input_ids"] = np.where(feeds["attention_mask"] == 1, np.maximum(feeds["input_ids"], 1), 0)
    for found in (predictor.run_branches(predictor.run_trunk(feeds)), predictor.run(feeds), predictor.run(feeds)):
        for task in ("a", "b"):
            assert_parity(found[task], reference(model, task, feeds, 1))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_mask_of_the_last_token_is_no_state(tmp_path: Path, precision: str) -> None:
    """The last token is found by the token ids, so that its row of the mask depends on them as well."""
    config = GPT2Config(n_layer=LAYERS, n_embd=32, n_head=4, vocab_size=101, n_positions=MAX_LENGTH, pad_token_id=0)
    model = tiny_model({"a": (LoRAConfig(r=2), "3"), "b": (LoRAConfig(r=2), "2")}, config)
    folder = export(model, drop=LAYERS - 1, split=True, precision=precision, output=tmp_path / "onnx").output
    predictor = runtime.load(folder, provider="cpu")
    split = predictor.manifest.split(LAYERS - 1)
    assert split is not None
    assert all(state.shape[1:3] != ("1", "1") for state in split.states)
    assert not split.padding_counts
    batches = [inputs((1, length), seed=length, segments=False) for length in (5, 9, 1)]
    for feeds in batches:
        feeds["input_ids"] = np.maximum(feeds["input_ids"], 1)
        feeds["attention_mask"][:] = 1
    found = predictor.run_branches(runtime.TrunkStates.concatenate([predictor.run_trunk(feeds) for feeds in batches]))
    for row, feeds in enumerate(batches):
        for task, logits in predictor.run(feeds).items():
            np.testing.assert_allclose(found[task][row], logits[0], atol={"fp32": 1e-5, "int8": 0.05}[precision])


@pytest.mark.parametrize("adapter", [PrefixTuningConfig(prefix_length=3), LoRAConfig(r=2)])
def test_texts_of_other_lengths_share_a_batch(tmp_path: Path, adapter: Any) -> None:
    """Masks are no states: their zeros would mean that padding is attended to."""
    model = tiny_model({"a": (adapter, "3"), "b": (adapter, "2")}, bert_config(layers=LAYERS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "prefix" in name:
                parameter.normal_(0, 0.3)
    folder = export(model, drop=2, split=True, output=tmp_path / "onnx").output
    predictor = runtime.load(folder, provider="cpu", state_cache=10**6)
    batches = [inputs((1, length), seed=length) for length in (5, 9, 3)]
    states = runtime.TrunkStates.concatenate([predictor.run_trunk(feeds) for feeds in batches])
    states.save(tmp_path / "states")
    wide = {name: np.pad(array, ((0, 0), (0, 20 - array.shape[1]))) for name, array in batches[0].items()}
    for task in ("a", "b"):
        expected = [reference(model, task, feeds, 2)[0] for feeds in batches]
        for kept in (states, runtime.load_states(tmp_path / "states")):
            assert_parity(predictor.run_branches(kept)[task], np.stack(expected))
        for _ in range(2):
            assert_parity(predictor.run(batches[0])[task][0], expected[0])
            assert_parity(predictor.run(wide)[task][0], expected[0])
    assert predictor.state_cache is not None
    assert predictor.state_cache.entries == 1


def test_a_trunk_without_layers_is_refused(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn_inv", "3")}, bert_config(layers=LAYERS))
    with pytest.raises(ExportError, match="ends before the first layer"):
        export(model, split=True, output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_wrong_split_is_not_written(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = verify._compare
    monkeypatch.setattr(verify, "_compare", lambda one, other, *rest: compare(one, [array + 0.01 for array in other], *rest))
    with pytest.raises(VerificationError, match=r"differs from the whole graph by .*: export without --split"):
        export(model, drop=2, split=True, output=tmp_path / "onnx")
    monkeypatch.setattr(verify, "_compare", lambda one, other, *rest: compare(one, [array * np.nan for array in other], *rest))
    with pytest.raises(VerificationError, match="with 0: export without --split"):
        export(model, drop=2, split=True, output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_cheap_value_is_not_stored(exported: Report) -> None:
    graph = ir.load(exported.output / "model.onnx").graph
    cut = cut_states(graph, {"sequence": MAX_LENGTH}, len(TASKS), {})
    producers = {str(value.name): node.op_type for node in graph for value in node.outputs}
    # The adapter reads the sum before the norm and the norm itself: the norm is computed again.
    assert "LayerNormalization" not in {producers[state.value] for state in cut.states if len(cut.states) == 1}


def test_threads_share_a_cache(model: Any, exported: Report) -> None:
    predictor = runtime.load(exported.output, provider="cpu", drop=2, state_cache=200_000)
    batches = [inputs((3, length), seed=length) for length in range(4, 12)]
    expected = [reference(model, "topic", feeds, 2) for feeds in batches]
    wrong: list[int] = []

    def serve(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(len(batches), size=20).tolist():
            found = predictor.run(batches[number])["topic"]
            if np.abs(found - expected[number]).max() > 1e-5:
                wrong.append(number)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    statistics = predictor.state_cache
    assert statistics is not None
    assert statistics.hits + statistics.misses == 4 * 20 * 3
    assert statistics.hits > 0
    assert statistics.nbytes <= statistics.capacity
