"""Fusion layers and adapter setups from folders, with the names and the weights that the library loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.composition import Average, BatchSplit, Fuse, MultiTask, Parallel, Stack

from exporter.checkpoints.load import load
from tests.helpers.load_testing import answer, assert_equal, assert_refused, edit, fused_model, load_quietly, save_base_model
from tests.helpers.tiny_models import tiny_model


@pytest.fixture
def fused(tmp_path: Path) -> Any:
    """Three adapters in all/, the fusions "a,b" and "a,b,c" with heads in their folders, the trunk in trunk/."""
    model = fused_model(("a", "b", "c"), Fuse("a", "b"), Fuse("a", "b", "c"))
    save_base_model(model, tmp_path / "trunk")
    model.save_all_adapters(str(tmp_path / "all"))
    for members in (["a", "b"], ["a", "b", "c"]):
        model.save_adapter_fusion(str(tmp_path / "".join(members)), members, with_head=True)
    return model


def test_fusions_whose_names_begin_alike(tmp_path: Path, fused: Any) -> None:
    """The file of "a,b" also holds the weights of "a,b,c", over which the library would load them."""
    saved = torch.load(tmp_path / "ab" / "pytorch_model_adapter_fusion.bin", weights_only=True)
    assert any("adapter_fusion_layer.a,b,c." in key for key in saved)
    with torch.no_grad():
        fused.bert.encoder.layer[0].output.adapter_fusion_layer["a,b,c"].query.weight.add_(1.0)
    fused.save_adapter_fusion(str(tmp_path / "abc"), ["a", "b", "c"], with_head=True)
    for order in (["ab", "abc"], ["abc", "ab"]):
        fusions = [str(tmp_path / name) for name in order]
        loaded = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "all")], fusions=fusions).model
        for setup in (Fuse("a", "b"), Fuse("a", "b", "c")):
            assert_equal(answer(loaded, setup, setup.name), answer(fused, setup, setup.name))
        assert all(not isinstance(config, dict) for config in loaded.adapters_config.fusion_config_map.values())


@pytest.mark.parametrize("safe", [True, False])
def test_a_fusion_with_its_members_next_to_it(tmp_path: Path, fused: Any, safe: bool) -> None:
    (tmp_path / "fusion").mkdir()
    for name in ("a", "b"):
        fused.save_adapter(str(tmp_path / "fusion" / name), name)
    fused.save_adapter_fusion(str(tmp_path / "fusion" / "f"), ["a", "b"], with_head=True, use_safetensors=safe)
    loaded = load_quietly(tmp_path / "trunk", fusions=[str(tmp_path / "fusion")]).model
    assert list(loaded.adapters_config.adapters) == ["a", "b"]
    assert_equal(answer(loaded, Fuse("a", "b"), "a,b"), answer(fused, Fuse("a", "b"), "a,b"))


def test_a_fusion_of_adapters_that_have_other_names_now(tmp_path: Path, fused: Any) -> None:
    adapters = [f"first={tmp_path / 'all' / 'a'}", str(tmp_path / "all" / "b")]
    loaded = load_quietly(tmp_path / "trunk", adapters=adapters, fusions=[str(tmp_path / "ab")]).model
    assert list(loaded.adapters_config.get_fusion("a,b")[1]) == ["first", "b"]
    assert_equal(answer(loaded, Fuse("first", "b", name="a,b"), "a,b"), answer(fused, Fuse("a", "b"), "a,b"))


def _without(path: Path, text: str) -> None:
    weights = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in weights.items() if text not in key}, path)


@pytest.mark.parametrize(
    ("damage", "adapters", "message"),
    [
        (lambda _: None, ["all/a"], "fuses the adapter 'b', which is not in the model: add its folder with --adapter"),
        (
            lambda f: _without(f / "pytorch_model_adapter_fusion.bin", "a,b.key"),
            ["all"],
            "lacks 4 weights, first 'bert.encoder",
        ),
        (lambda f: (f / "pytorch_model_adapter_fusion.bin").unlink(), ["all"], "the fusion 'a,b' in .* has no weights"),
        (lambda f: (f / "pytorch_model_head.bin").unlink(), ["all"], "the head 'a,b' in .* has no weights"),
        (lambda f: edit(f / "adapter_fusion_config.json", config=None), ["all"], "has no fusion configuration, found None"),
        (lambda f: edit(f / "adapter_fusion_config.json", config={}), ["all"], "cannot be added to the BertAdapterModel"),
        (
            lambda f: edit(f / "adapter_fusion_config.json", adapter_names=[1]),
            ["all"],
            "has no list of adapter names, found \\[1\\]",
        ),
        (lambda f: edit(f / "adapter_fusion_config.json", hidden_size=768), ["all"], "with hidden_size 768"),
        (lambda f: (f / "adapter_fusion_config.json").unlink(), ["all"], "but no adapter_fusion_config.json"),
    ],
)
def test_damaged_fusions(tmp_path: Path, fused: Any, damage: Any, adapters: list[str], message: str) -> None:
    damage(tmp_path / "ab")
    sources = [str(tmp_path / name) for name in adapters]
    assert_refused(message, tmp_path / "trunk", adapters=sources, fusions=[str(tmp_path / "ab")])


def test_fusions_that_are_none_or_there_already(tmp_path: Path, fused: Any) -> None:
    assert_refused("contains no fusion", tmp_path / "trunk", fusions=[str(tmp_path / "all")])
    assert_refused("there is no fusion folder", tmp_path / "trunk", fusions=[str(tmp_path / "nowhere")])
    fused.save_pretrained(tmp_path / "model")
    assert_refused(
        "the fusion 'a,b' .* has the name of one that is already in the model",
        tmp_path / "model",
        fusions=[str(tmp_path / "ab")],
    )


SETUPS: dict[str, Any] = {
    "fuse": Fuse("a", "b"),
    "stack": Stack("c", Fuse("a", "b")),
    "average": Average("a", "b", weights=[0.25, 0.75]),
    "not_normalized": Average("a", "b", weights=[1.0, 2.0], normalize_weights=False),
    "parallel": Parallel("a", Stack("b", "c")),
    "split": BatchSplit("a", "b", batch_sizes=[1, 2]),
}


@pytest.mark.parametrize("name", SETUPS)
def test_setups(tmp_path: Path, fused: Any, name: str) -> None:
    setup = SETUPS[name]
    fused.save_adapter_setup(str(tmp_path / "setup"), setup, head_setup="a")
    found = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "setup")])
    assert found.setup == setup
    assert found.setup.to_dict() == setup.to_dict()
    assert found.head == "a"
    if name not in ("parallel", "split"):
        assert_equal(answer(found.model, found.setup, "a"), answer(fused, setup, "a"))


def test_a_named_fusion_gets_its_name_back(tmp_path: Path) -> None:
    """A second fusion has the same members, and the library would use its name."""
    model = fused_model(("a", "b"), Fuse("a", "b"), Fuse("a", "b", name="both"))
    save_base_model(model, tmp_path / "trunk")
    setup = Fuse("a", "b", name="both")
    model.save_adapter_setup(str(tmp_path / "setup"), setup, head_setup="both")
    found = load_quietly(tmp_path / "trunk", adapters=[str(tmp_path / "setup")])
    assert found.setup.name == "both"
    assert_equal(answer(found.model, found.setup, "both"), answer(model, setup, "both"))
    # If the model has both, the setup is ambiguous.
    model.save_pretrained(tmp_path / "model")
    model._save_adapter_setup_config(str(tmp_path / "model"), setup)
    assert_refused("the model has several fusions of them, 'a,b', 'both'", tmp_path / "model")


def test_a_setup_in_the_folder_of_its_model(tmp_path: Path, fused: Any) -> None:
    fused.save_pretrained(tmp_path / "model")
    fused.save_adapter_setup(str(tmp_path / "model"), Stack("c", "a"))
    found = load_quietly(tmp_path / "model")
    assert found.setup == Stack("c", "a")
    assert_equal(answer(found.model, found.setup, "a"), answer(fused, found.setup, "a"))
    # The same with the bare trunk.
    fused.save_adapter_setup(str(tmp_path / "trunk"), Stack("c", "a"))
    found = load_quietly(tmp_path / "trunk")
    assert_equal(answer(found.model, found.setup, "a"), answer(fused, found.setup, "a"))


def test_two_setups_that_share_an_adapter(tmp_path: Path, fused: Any) -> None:
    for name in ("a", "b"):
        fused.save_adapter_setup(str(tmp_path / f"c{name}"), Stack("c", name), head_setup=name)
    sources = [str(tmp_path / "ca"), str(tmp_path / "cb")]
    found = load_quietly(tmp_path / "trunk", adapters=sources)
    assert isinstance(found.setup, MultiTask)
    assert found.setup.children == [Stack("c", "a"), Stack("c", "b")]
    assert found.head == ["a", "b"]
    # Another adapter of that name is another matter.
    other = fused_model(("c", "b"))
    other.save_adapter_setup(str(tmp_path / "other"), Stack("c", "b"))
    assert_refused(
        "two different adapters have the name 'c'", tmp_path / "trunk", adapters=[sources[0], str(tmp_path / "other")]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"type": "Stack", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["x"]}]},
            "needs the adapter 'x'",
        ),
        (
            {"type": "Fuse", "children": [{"type": "single", "children": ["b"]}, {"type": "single", "children": ["a"]}]},
            "the model has no fusion of them",
        ),
        ({"type": "sys", "children": [{"type": "single", "children": ["a"]}]}, "contains no adapter setup"),
        ({"type": "Stack", "children": []}, "contains no adapter setup"),
        ({"type": "Stack", "children": [{"type": "single", "children": [5]}]}, "contains no adapter setup"),
        (
            {"type": "Stack", "children": [{"type": "single", "children": ["a"]}], "kwargs": {"x": 1}},
            "contains no adapter setup",
        ),
        ([], "contains no adapter setup"),
    ],
)
def test_damaged_setups(tmp_path: Path, fused: Any, content: Any, message: str) -> None:
    fused.save_adapter_setup(str(tmp_path / "setup"), Stack("a", "b"))
    (tmp_path / "setup" / "adapter_setup.json").write_text(json.dumps({"adapter_setup": content}))
    assert_refused(message, tmp_path / "trunk", adapters=[str(tmp_path / "setup")])


def test_a_name_for_a_setup(tmp_path: Path, fused: Any) -> None:
    fused.save_adapter_setup(str(tmp_path / "setup"), Stack("a", "b"))
    assert_refused("requires a single adapter", tmp_path / "trunk", adapters=[f"x={tmp_path / 'setup'}"])
    assert load(tmp_path / "trunk", adapters=[str(tmp_path / "all")]).setup is None


def test_dictionaries_of_a_restored_model_become_objects(tmp_path: Path) -> None:
    model = fused_model(("a", "b"), Fuse("a", "b"))
    model.save_pretrained(tmp_path)
    config = load(tmp_path).model.adapters_config
    assert {type(value).__name__ for value in config.config_map.values()} == {"BnConfig"}
    assert {type(value).__name__ for value in config.fusion_config_map.values()} <= {"AdapterFusionConfig"}
    tiny_model({}).save_pretrained(tmp_path / "empty")
    assert not load(tmp_path / "empty").model.adapters_config.adapters
