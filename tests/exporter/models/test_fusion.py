"""AdapterFusion: measured attention, choice, and pruned layers against the library and a formula written by hand."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import AutoAdapterModel, DoubleSeqBnConfig, LoRAConfig, SeqBnConfig
from adapters.composition import Fuse, Stack
from adapters.configuration import DynamicAdapterFusionConfig, StaticAdapterFusionConfig
from rich.console import Console
from transformers import AlbertConfig, BertConfig

from exporter.cli.tables import attention_table
from exporter.errors import ExportError
from exporter.models.adapterhub.fusion import Pruning, freeze_temperature, prune_fusion
from exporter.models.quiet_libraries import quiet
from exporter.prune.adapterhub.fusion_attention import attention_tables
from exporter.prune.fusion_scores import AttentionTable, LayerScores, choose
from exporter.texts.batches import Calibration, read_calibration
from exporter.trace.trace import light_trace
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import bert_config, inputs, tokenizer

LAYERS = 3
MEMBERS = ("a", "b", "c", "d")
TEXTS = ["a film", "one two three four five six", "what a long and winding road this is", "no", "why not"]


def fusion_model(
    adapter: Any = "seq_bn",
    fusion: Any = "dynamic",
    config: Any = None,
    members: Sequence[str] = MEMBERS,
    changed: dict[str, Any] | None = None,
) -> Any:
    """The members, a further adapter "x", a fusion of all members, and a head "h", far from the identity."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(config or bert_config(VOCABULARY, LAYERS))
    for name in (*members, "x"):
        model.add_adapter(name, config=copy.deepcopy((changed or {}).get(name, adapter)))
    model.add_adapter_fusion(list(members), config=copy.deepcopy(fusion))
    model.add_classification_head("h", num_labels=3, layers=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapter" in name or parameter.dim() == 1:
                parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.2)
    return model.eval()


def run(model: Any, setup: Any, feeds: dict[str, np.ndarray] | None = None, skip: Sequence[int] = ()) -> np.ndarray:
    model.set_active_adapters(setup, skip_layers=list(skip))
    model.active_head = "h"
    feeds = feeds or inputs((3, 6), VOCABULARY)
    with torch.no_grad():
        logits: np.ndarray = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
    return logits


def calibration(folder: Path, texts: Sequence[str] = TEXTS) -> Calibration:
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    return read_calibration(folder / "texts.txt", tokenizer(), ("input_ids", "attention_mask", "token_type_ids"), 48)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


# --- measuring


def _expected(model: Any, fusion: str, members: int) -> dict[int, dict[str, np.ndarray]]:
    """Means over all tokens of all texts, one text at a time and so without padding."""
    sums: dict[int, dict[str, np.ndarray]] = {}
    tokens = 0
    for text in TEXTS:
        encoded = tokenizer()(text, return_tensors="pt")
        with torch.no_grad():
            found = model(**encoded, output_adapter_fusion_attentions=True).adapter_fusion_attentions[fusion]
        tokens += encoded["input_ids"].numel()
        for layer, places in found.items():
            for place, values in places.items():
                total = sums.setdefault(layer, {}).setdefault(place, np.zeros(members))
                total += values.reshape(-1, members).sum(0)
    return {layer: {place: total / tokens for place, total in places.items()} for layer, places in sums.items()}


@pytest.mark.parametrize(
    ("adapter", "setup", "members"),
    [
        ("seq_bn", Fuse(*MEMBERS), MEMBERS),
        ("double_seq_bn", Fuse(*MEMBERS), MEMBERS),
        ("seq_bn", Stack("x", Fuse(*MEMBERS)), MEMBERS),
        ("seq_bn", Fuse(Stack("x", "a"), "b", Stack("x", "c"), "d"), ("Stack(x, a)", "b", "Stack(x, c)", "d")),
    ],
)
def test_measures_the_mean_over_real_tokens(tmp_path: Path, adapter: str, setup: Any, members: tuple[str, ...]) -> None:
    model = fusion_model(adapter)
    model.set_active_adapters(setup)
    model.active_head = "h"
    (table,) = attention_tables(model, "t", setup, calibration(tmp_path))
    expected = _expected(model, "a,b,c,d", 4)
    assert table.members == members
    assert [row.layer for row in table.layers] == list(range(LAYERS))
    for row in table.layers:
        assert set(row.locations) == set(expected[row.layer])
        for place, values in row.locations.items():
            np.testing.assert_allclose(values, expected[row.layer][place], atol=1e-6)
        np.testing.assert_allclose(row.scores, np.mean(list(expected[row.layer].values()), 0), atol=1e-6)
        assert np.ptp(row.scores) > 1e-3
    assert not any(module._forward_hooks for name, module in model.named_modules() if "fusion" in name)
    json.dumps(table.to_dict())


def test_dropped_layers_and_left_out_members_have_no_scores(tmp_path: Path) -> None:
    model = fusion_model(changed={"b": SeqBnConfig(leave_out=[2])})
    model.set_active_adapters(Fuse(*MEMBERS), skip_layers=[0])
    (table,) = attention_tables(model, "t", Fuse(*MEMBERS), calibration(tmp_path))
    assert {row.layer: row.members for row in table.layers} == {1: MEMBERS, 2: ("a", "c", "d")}
    assert choose(table, 4) == {1: MEMBERS, 2: ("a", "c", "d")}


def test_layers_that_run_repeatedly_count_every_time(tmp_path: Path) -> None:
    config = AlbertConfig(
        vocab_size=VOCABULARY, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_hidden_groups=1,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=48,
    )  # fmt: skip
    model = fusion_model(config=config)
    model.set_active_adapters(Fuse(*MEMBERS))
    seen: list[np.ndarray] = []
    blocks = [module for name, module in model.named_modules() if name.endswith("adapter_fusion_layer.a,b,c,d")]
    assert len(blocks) == 1
    (table,) = attention_tables(model, "t", Fuse(*MEMBERS), calibration(tmp_path, TEXTS[:1]))
    handle = blocks[0].register_forward_hook(lambda _module, _args, output: seen.append(output[1]))
    with torch.no_grad():
        model.base_model(**tokenizer()(TEXTS[0], return_tensors="pt"), output_adapter_fusion_attentions=True)
    handle.remove()
    assert len(seen) == 3
    np.testing.assert_allclose(table.layers[0].scores, np.concatenate(seen).mean((0, 1)), atol=1e-6)


def test_given_scores(tmp_path: Path) -> None:
    model = fusion_model()
    model.set_active_adapters(Fuse(*MEMBERS))

    def given(scores: Any) -> AttentionTable:
        (tmp_path / "scores.json").write_text(json.dumps(scores))
        found = read_calibration(tmp_path / "scores.json", None, (), 48)
        return attention_tables(model, "t", Fuse(*MEMBERS), found)[0]

    layer = {"a": 0.1, "b": 3, "c": 0, "d": 0.1}
    assert choose(given({str(number): layer for number in range(LAYERS)}), 2) == dict.fromkeys(range(LAYERS), ("a", "b"))
    assert not given({"a,b,c,d": {str(number): layer for number in range(LAYERS)}}).measured
    with pytest.raises(ExportError, match=r"no entry for the fusion 'a,b,c,d' of the task 't'.*found 'a,b'"):
        given({"a,b": {"0": layer}})
    with pytest.raises(ExportError, match=r"layer 2 is missing; layer 1 lacks 'd'; layer 0 has 'e', which is not a member"):
        given({"0": {**layer, "e": 1}, "1": {"a": 1, "b": 1, "c": 1}})


# --- choosing


def _table(*scores: tuple[float, ...]) -> AttentionTable:
    return AttentionTable("t", "f", MEMBERS, tuple(LayerScores(n, MEMBERS, row) for n, row in enumerate(scores)), True)


def test_chooses_per_layer_and_the_earlier_member_at_a_tie() -> None:
    table = _table((0.1, 0.2, 0.3, 0.4), (0.4, 0.1, 0.4, 0.1), (0.25, 0.25, 0.25, 0.25))
    assert choose(table, 1) == {0: ("d",), 1: ("a",), 2: ("a",)}
    assert choose(table, 3) == {0: ("b", "c", "d"), 1: ("a", "b", "c"), 2: ("a", "b", "c")}
    assert choose(table, 4) == dict.fromkeys(range(3), MEMBERS)


@pytest.mark.parametrize("keep", [0, -1, 5, 1.5, True, "2"])
def test_refuses_what_is_not_a_number_to_keep(keep: Any) -> None:
    with pytest.raises(ExportError, match="must be from 1 to 4, the number of members of the fusion 'f'; found"):
        choose(_table((0.1, 0.2, 0.3, 0.4)), keep)


def test_shows_the_table_in_a_narrow_terminal() -> None:
    scores = (0.124, 0.2, 0.3, 0.376)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(attention_table(_table(*[scores] * 12), dict.fromkeys(range(12), ("a", "d"))))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if "d" in line and "38*" in line)
    assert line.count("38*") == 12
    assert not any("30*" in line for line in lines)


# --- pruning


def _pruned(model: Any, tasks: Sequence[Pruning]) -> Any:
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pruned = copy.deepcopy(model, shared)
    prune_fusion(pruned, tasks)
    assert all(weights(model)[name] is parameter for name, parameter in weights(pruned).items())
    return pruned


FUSIONS = {
    "dynamic": DynamicAdapterFusionConfig(),
    "static": StaticAdapterFusionConfig(),
    "residual before": DynamicAdapterFusionConfig(residual_before=True),
    "query before": DynamicAdapterFusionConfig(query_before_ln=True),
    "value after": DynamicAdapterFusionConfig(value_before_softmax=False),
}


@pytest.mark.parametrize(
    ("adapter", "fusion"), [*(("seq_bn", name) for name in FUSIONS), ("double_seq_bn", "dynamic"), ("par_bn", "dynamic")]
)
@pytest.mark.parametrize("kept", [("b", "c"), ("d",), *swept((("a", "d"),), (("a",),), (MEMBERS,))])
def test_uniform_keep_is_the_librarys_fuse_of_the_kept(adapter: str, fusion: str, kept: tuple[str, ...]) -> None:
    model = fusion_model(adapter, FUSIONS[fusion])
    setup = Fuse(*MEMBERS)
    full, expected = run(model, setup), run(model, Fuse(*kept, name="a,b,c,d"))
    pruned = _pruned(model, [Pruning(setup, {"a,b,c,d": dict.fromkeys(range(LAYERS), kept)})])
    np.testing.assert_array_equal(run(pruned, setup), expected)
    np.testing.assert_array_equal(run(model, setup), full)
    if kept != MEMBERS:
        assert np.abs(full - expected).max() > 1e-4
    left = {name for name in MEMBERS if any(f".adapters.{name}." in path for path in weights(pruned))}
    assert left == set(kept)


def _by_hand(model: Any, kept: dict[int, tuple[str, ...]], feeds: dict[str, np.ndarray]) -> np.ndarray:
    """BERT with a fusion of seq_bn adapters after each feed-forward, from the formulas."""

    def block(layer: Any, members: tuple[str, ...], dense: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        added = dense + residual
        hidden = layer.LayerNorm(added)
        ups = torch.stack([layer.adapters[name].adapter_up(layer.adapters[name].adapter_down(hidden)) for name in members], 2)
        fusion = layer.adapter_fusion_layer["a,b,c,d"]
        scores = torch.einsum("bsh,bsnh->bsn", fusion.query(hidden), fusion.key(ups))
        context = torch.einsum("bsn,bsnh->bsh", scores.softmax(-1), fusion.value(ups))
        normed: torch.Tensor = layer.LayerNorm(context + added)
        return normed

    body = model.bert
    mask = torch.from_numpy(feeds["attention_mask"])[:, None, None, :]
    hidden = body.embeddings(torch.from_numpy(feeds["input_ids"]), torch.from_numpy(feeds["token_type_ids"]))
    for number, layer in enumerate(body.encoder.layer):
        attend = layer.attention.self
        q, k, v = (part(hidden).unflatten(-1, (4, 8)).transpose(1, 2) for part in (attend.query, attend.key, attend.value))
        scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(mask == 0, float("-inf"))
        context = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        hidden = layer.attention.output.LayerNorm(layer.attention.output.dense(context) + hidden)
        dense = layer.output.dense(layer.intermediate(hidden))
        hidden = block(layer.output, kept[number], dense, hidden)
    logits: np.ndarray = model.heads["h"][1](hidden[:, 0]).detach().numpy()
    return logits


def test_keep_per_layer_is_the_formula() -> None:
    model = fusion_model()
    setup, feeds = Fuse(*MEMBERS), inputs((3, 6), VOCABULARY)
    kept = {0: ("a", "d"), 1: ("c",), 2: ("b", "c")}
    with torch.no_grad():
        full = _by_hand(model, dict.fromkeys(range(LAYERS), MEMBERS), feeds)
        expected = _by_hand(model, kept, feeds)
    np.testing.assert_allclose(run(model, setup, feeds), full, atol=2e-6)
    pruned = _pruned(model, [Pruning(setup, {"a,b,c,d": kept})])
    np.testing.assert_allclose(run(pruned, setup, feeds), expected, atol=2e-6)
    assert np.abs(full - expected).max() > 1e-3
    for number, layer in enumerate(pruned.bert.encoder.layer):
        # "x" is not part of the task and stays: only adapters of the given tasks are removed from layers.
        assert set(layer.output.adapters) - {"x"} == set(kept[number])
    again = copy.deepcopy(pruned)
    del pruned.bert.encoder.layer[0].output.adapters["a"]
    np.testing.assert_allclose(run(again, setup, feeds), expected, atol=2e-6)


def test_nested_compositions_and_dropped_layers() -> None:
    model = fusion_model()
    name = "a,b,c,d"
    behind = Stack("x", Fuse(*MEMBERS))
    pruned = _pruned(model, [Pruning(behind, {name: dict.fromkeys(range(LAYERS), ("b", "c"))})])
    np.testing.assert_array_equal(run(pruned, behind), run(model, Stack("x", Fuse("b", "c", name=name))))
    np.testing.assert_array_equal(run(pruned, behind, skip=[0]), run(model, Stack("x", Fuse("b", "c", name=name)), skip=[0]))
    within = Fuse(Stack("x", "a"), "b", Stack("x", "c"), "d")
    pruned = _pruned(model, [Pruning(within, {name: dict.fromkeys(range(LAYERS), ("Stack(x, a)", "b"))})])
    np.testing.assert_array_equal(run(pruned, within), run(model, Fuse(Stack("x", "a"), "b", name=name)))
    assert all(set(layer.output.adapters) == {"x", "a", "b"} for layer in pruned.bert.encoder.layer)
    pruned = _pruned(model, [Pruning(within, {name: dict.fromkeys(range(LAYERS), ("d",))})])
    np.testing.assert_array_equal(run(pruned, within), run(model, Fuse("d", name=name)))
    assert all(set(layer.output.adapters) == {"d"} for layer in pruned.bert.encoder.layer)


def test_tasks_of_one_copy_keep_their_own_members() -> None:
    model = fusion_model()
    name = "a,b,c,d"
    tasks = {
        Stack: (Stack("x", Fuse(*MEMBERS)), ("a", "b")),
        Fuse: (Fuse(*MEMBERS), ("b", "d")),
    }
    prunings = [Pruning(setup, {name: dict.fromkeys(range(LAYERS), kept)}) for setup, kept in tasks.values()]
    pruned = _pruned(model, [*prunings, Pruning("c")])
    np.testing.assert_array_equal(run(pruned, tasks[Stack][0]), run(model, Stack("x", Fuse("a", "b", name=name))))
    np.testing.assert_array_equal(run(pruned, tasks[Fuse][0]), run(model, Fuse("b", "d", name=name)))
    np.testing.assert_array_equal(run(pruned, "c"), run(model, "c"))
    pruned = _pruned(model, prunings)
    assert all(set(layer.output.adapters) == {"a", "b", "d", "x"} for layer in pruned.bert.encoder.layer)
    json.dumps(prunings[0].to_dict())


@pytest.mark.parametrize(("kept", "message"), [((), "cannot keep nothing in layer 1"), (("x",), "cannot keep 'x' in layer 1")])
def test_refuses_to_keep_what_is_no_member(kept: tuple[str, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        prune_fusion(fusion_model(), [Pruning(Fuse(*MEMBERS), {"a,b,c,d": {1: kept}})])


def test_refuses_a_last_member_that_the_library_cannot_run() -> None:
    model = fusion_model(changed={"a": SeqBnConfig(leave_out=[1])})
    setup = Fuse(Stack("x", "a"), "b", name="a,b,c,d")
    assert np.isfinite(run(model, setup)).all()
    with pytest.raises(ExportError, match=r"cannot keep Stack\(x, a\) as its last member in layer 1, where 'a' has no adapter"):
        prune_fusion(model, [Pruning(setup, {"a,b,c,d": {1: ("Stack(x, a)",)}})])


# --- what the library accepts and cannot run


@pytest.mark.parametrize(
    ("changed", "setup", "message"),
    [
        ({"d": SeqBnConfig(leave_out=[1])}, Fuse(*MEMBERS), r"last member of .* 'd', has no adapter in layer 1"),
        ({"x": DoubleSeqBnConfig()}, Stack("x", Fuse(*MEMBERS)), r"layer 0 \(mh_adapter\), where none of its members"),
        (
            dict.fromkeys("ab", SeqBnConfig(leave_out=[1])),
            Fuse(Stack("a", "b"), "d", name="a,b,c,d"),
            r"contains Stack\(a, b\), which has no adapter in layer 1 \(output_adapter\)",
        ),
        ({}, Fuse("a", "b"), r"the fusion 'a,b' has no weights in layer 0"),
        (dict.fromkeys(MEMBERS, LoRAConfig()), Fuse(*MEMBERS), r"the fusion 'a,b,c,d' contains 'a', a LoRAConfig"),
        ({}, Fuse("a", "a", name="a,b,c,d"), r"contains a member twice: a, a"),
    ],
)
def test_refuses_fusions_that_the_library_cannot_run(tmp_path: Path, changed: dict[str, Any], setup: Any, message: str) -> None:
    model = fusion_model(changed=changed)
    if "twice" not in message:
        with pytest.raises((KeyError, NotImplementedError, TypeError)):
            run(model, setup)
    model.set_active_adapters(setup)
    with pytest.raises(ExportError, match=message):
        attention_tables(model, "t", setup, calibration(tmp_path))


# --- temperature


def test_a_frozen_temperature_stays(tmp_path: Path) -> None:
    model = fusion_model(fusion=DynamicAdapterFusionConfig(temperature=True))
    setup = Fuse(*MEMBERS)
    for _ in range(3):
        falling = [run(model, setup) for _ in range(2)]
    assert (falling[0] != falling[1]).any()
    present = model.bert.encoder.layer[0].output.adapter_fusion_layer["a,b,c,d"].T
    copied = copy.deepcopy(model)
    frozen = freeze_temperature(copied)
    assert set(frozen) == {f"bert.encoder.layer.{number}.output.adapter_fusion_layer.a,b,c,d" for number in range(LAYERS)}
    assert set(frozen.values()) == {present} and 49 < present < 50  # noqa: PT018
    first = run(copied, setup)
    attention_tables(copied, "t", setup, calibration(tmp_path))
    np.testing.assert_array_equal(run(copied, setup), first)
    np.testing.assert_array_equal(run(model, setup), first)  # the next value of the user's model, which was not changed
    assert freeze_temperature(fusion_model()) == {}


# --- tracing


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits


def test_a_pruned_fusion_traces_without_the_members_that_left(tmp_path: Path) -> None:
    import onnxruntime

    config = BertConfig(**{**bert_config().to_dict(), "num_hidden_layers": 2})
    model = fusion_model(config=config)
    setup = Stack("x", Fuse(*MEMBERS))
    kept = {0: ("a", "c"), 1: ("b",)}
    pruned = _pruned(model, [Pruning(setup, {"a,b,c,d": kept})])
    pruned.set_active_adapters(setup)
    pruned.active_head = "h"
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("sequence", min=1, max=48)}
    ids = torch.zeros(2, 7, dtype=torch.int64)
    with quiet(), light_trace():
        program = torch.onnx.export(
            _Logits(pruned).eval(), (ids, ids + 1), dynamo=True, optimize=False, verbose=False,
            input_names=["input_ids", "attention_mask"], output_names=["logits"], dynamic_shapes=(axes, axes),
        )  # fmt: skip
    assert program is not None
    names = list(program.model.graph.initializers)
    for layer in range(2):
        found = {name.split(".adapters.")[1].split(".")[0] for name in names if f"layer.{layer}.output.adapters." in name}
        assert found == {*kept[layer], "x"}
        assert any(f"layer.{layer}.output.adapter_fusion_layer.a,b,c,d.query.weight" in name for name in names)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 1), (3, 11), (5, 4)):
        feeds = inputs(shape, segments=False)
        expected = run(pruned, setup, feeds)
        assert np.abs(session.run(None, feeds)[0] - expected).max() <= 1e-6
        assert np.abs(run(model, setup, feeds) - expected).max() > 1e-4
