"""Models of sentence-transformers without adapters as tasks: the base model, and full fine-tunes of it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from huggingface_hub.utils._paths import filter_repo_objects

import runtime
from exporter import export
from exporter.checkpoints import sources
from exporter.checkpoints.load import load
from exporter.checkpoints.scan import scan
from exporter.checkpoints.sentence_folder import read_sentence_folder
from exporter.checkpoints.sources import Source, find
from exporter.errors import ExportError
from exporter.models.own_tasks import Sharing
from exporter.models.peft_folded import Folded
from exporter.notes import default_prompts
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from tests.helpers.batch_independence import left_tokenizer
from tests.helpers.sentence_folders import new_layout, old_layout, write
from tests.helpers.sentence_reference import normalized, pooled
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import answer, config, scramble

SIZE, LIMIT = 32, 20
HEAD = (np.eye(3, SIZE), np.zeros(3), ["a", "b", "c"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a fine-tune of its upper layer in the new layout, and the base in the old one."""
    folder = tmp_path_factory.mktemp("sentences")
    torch.manual_seed(0)
    model = transformers.BertModel(config(initializer_range=0.2))
    tokenizer: Any = left_tokenizer(model)
    tokenizer.padding_side = "right"
    for name in ("base", "tuned", "old/0_Transformer"):
        if name == "tuned":
            with torch.no_grad():
                weight = model.get_parameter("encoder.layer.1.output.dense.weight")
                weight.add_(torch.randn_like(weight))
        model.save_pretrained(folder / name)
    new_layout(folder / "base", SIZE, "mean", LIMIT, {"query": "w07 "}, "query")
    new_layout(folder / "tuned", SIZE, "cls", LIMIT, {}, None)
    old_layout(folder / "old", SIZE, 12, LIMIT)
    tokenizer.model_max_length = LIMIT
    for name in ("base", "old/0_Transformer"):
        tokenizer.save_pretrained(folder / name)
    return folder


def expected(folder: Path, mode: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    hidden = answer(transformers.BertModel.from_pretrained(folder).eval(), feeds).last_hidden_state.numpy()
    return normalized(pooled(hidden, feeds["attention_mask"], (mode,)))


@pytest.mark.sweep
def test_embeddings_of_the_base_and_of_a_fine_tune(saved: Path, tmp_path: Path) -> None:
    given = ["own=base", f"tuned={saved / 'tuned'}"]
    export(saved / "base", adapters=given, heads={"topics": HEAD}, routed=True, output=tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    assert [(task.head, task.width) for task in predictor.manifest.tasks[:2]] == [("sentence_embedding", SIZE)] * 2
    assert predictor.manifest.max_lengths == {"sequence": LIMIT}
    assert predictor.manifest.tasks[0].prompts == {"query": "w07 "}
    feeds = inputs((3, 9))
    found = predictor.run(feeds)
    rows = predictor.run_routed(feeds, ["tuned", "own", "topics"])
    for name, folder, mode, row in (("own", "base", "mean", 1), ("tuned", "tuned", "cls", 0)):
        vectors = expected(saved / folder, mode, feeds)
        assert_parity(found[name].astype(np.float64), vectors)
        assert_parity(rows[row].astype(np.float64), vectors[row])
    assert_parity(found["topics"].astype(np.float64), expected(saved / "base", "mean", feeds)[:, :3])


def test_tasks_that_are_not_given_or_given_twice(saved: Path) -> None:
    with pytest.raises(ExportError, match=r"has no adapters: .* own embeddings are a task with --adapter NAME=base"):
        load(saved / "base", False)
    with pytest.raises(ExportError, match=r"'own' and 'again' are the same embeddings of .*: omit one of them"):
        load(saved / "base", False, ["own=base", "again=base"])


def test_a_default_prompt_under_a_head_is_named(saved: Path) -> None:
    checkpoint = load(saved / "base", False, heads={"topics": HEAD})
    (note,) = default_prompts(prune(checkpoint.model, make_plan(checkpoint, None, 0)))
    assert note.startswith("topics: sentence-transformers and SetFit write the model's default prompt 'w07 ' before each text")
    checkpoint = load(saved / "old", False, ["own=base"], heads={"topics": (np.eye(3, 12), None)})
    assert default_prompts(prune(checkpoint.model, make_plan(checkpoint, None, 0))) == ()


def test_a_pooling_by_name_for_a_model_without_adapters(saved: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(saved / "base", tmp_path / "plain")
    (plain / "modules.json").unlink()
    with pytest.raises(ExportError, match=r"without a prediction head .* such as --pooling own=mean"):
        load(plain, False, ["own=base"])
    checkpoint = load(plain, False, ["own=base"], pooling={"own": "max"})
    plan = make_plan(checkpoint, None, 0)
    assert plan.tasks[0].head.kind == "sentence_embedding"
    compare_with_library(checkpoint, plan)
    checkpoint = load(saved / "base", False, [f"tuned={saved / 'tuned'}"])
    assert checkpoint.model.tasks["tuned"].sharing == Sharing(equal=38, whole=1)


def test_an_encoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": SIZE, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 101}
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    model.save_pretrained(tmp_path / "t5")
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "tuned")
    adapter: Any = peft.get_peft_model(model, peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["q"]))
    scramble(adapter).save_pretrained(tmp_path / "lora")
    for name in ("t5", "lora", "tuned"):
        new_layout(tmp_path / name, SIZE, "mean", LIMIT, {}, None)
    adapters = ["own=base", *(f"{name}={tmp_path / name}" for name in ("lora", "tuned"))]
    checkpoint = load(tmp_path / "t5", False, adapters=adapters, heads={"topics": HEAD})
    compare_with_library(checkpoint, plan := make_plan(checkpoint, None, 0))
    feeds = {key: value for key, value in inputs((3, 9)).items() if key != "token_type_ids"}
    tasks = [(task, group) for group in prune(checkpoint.model, plan) for task in group.tasks]
    found = {task.name: eager(group, plan, task, feeds)[0] for task, group in tasks}
    adapter.eval()
    hidden = answer(adapter, feeds).last_hidden_state.numpy()
    assert_parity(found["lora"].astype(np.float64), normalized(pooled(hidden, feeds["attention_mask"], ("mean",))))
    with adapter.disable_adapter():
        hidden = answer(adapter, feeds).last_hidden_state.numpy()
    vectors = normalized(pooled(hidden, feeds["attention_mask"], ("mean",)))
    assert_parity(found["own"].astype(np.float64), vectors)
    assert_parity(found["topics"].astype(np.float64), vectors[:, :3])
    # The embeddings have two names, and one of them does not say what they are: they are below all layers.
    (group,) = prune(checkpoint.model, make_plan(checkpoint, ["tuned"], 1))
    modules = group.model.model.named_modules(remove_duplicate=False)
    changed = {name.partition(".layer.")[0] for name, module in modules if isinstance(module, Folded)}
    assert changed == {"encoder.block.1", "encoder.final_layer_norm"}


def test_a_model_in_the_subfolder_of_the_first_version(saved: Path) -> None:
    for source in ("base", str(saved / "old")):
        checkpoint = load(saved / "old", adapters=[f"own={source}"])
        assert checkpoint.tokenizer.model_max_length == LIMIT
        compare_with_library(checkpoint, plan := make_plan(checkpoint, None, 0))
        assert [task.head.width for task in plan.tasks] == [12]


def test_settings_under_the_name_of_the_model(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "old", tmp_path / "old")
    path = folder / "0_Transformer/sentence_bert_config.json"
    path.rename(path.with_name("sentence_xlm-roberta_config.json"))
    write(path, {})
    (part,) = scan(Source("old", folder), "own")
    assert read_sentence_folder(part, SIZE).max_length == LIMIT
    write(path.with_name("sentence_roberta_config.json"), {"do_lower_case": True})
    with pytest.raises(ExportError, match=r"sentence_roberta_config.json' sets do_lower_case"):
        read_sentence_folder(part, SIZE)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_the_folders_of_modules_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    listed = [{"type": "sentence_transformers.models.Pooling", "path": path} for path in ("", "1_Pooling", "../x", "2_Dense")]
    files = {"config.json": "{}", weights: "", "modules.json": json.dumps(listed), "onnx/model.onnx": "", "x/config.json": ""}
    files |= {"1_Pooling/config.json": "{}", "2_Dense/config.json": "{}", f"2_Dense/{weights}": "", "2_Dense/optimizer.bin": ""}

    def hub(_: str, allow_patterns: Any, ignore_patterns: Any = None, **__: Any) -> str:
        for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(files[name])
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", hub)
    assert find("org/name", "model").folder == tmp_path
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == files.keys() - {"onnx/model.onnx", "x/config.json", "2_Dense/optimizer.bin"}
