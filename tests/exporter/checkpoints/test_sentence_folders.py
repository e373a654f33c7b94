"""Adapters in folders of sentence-transformers, and poolings by name, against the formulas of the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import runtime
from exporter import export
from exporter.checkpoints.embedders import check_poolable
from exporter.checkpoints.load import load
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_folder import read_sentence_folder
from exporter.cli.option_values import pooling_of
from exporter.cli.options import export_parser
from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet
from exporter.notes import without_pooling
from exporter.planning.make_plan import make_plan
from exporter.planning.routable import check_routable
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from runtime.bundle import read_manifest
from tests.helpers.batch_independence import left_tokenizer
from tests.helpers.sentence_folders import modules, new_layout, old_layout, write
from tests.helpers.sentence_reference import dense, normalized, pooled
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import config, scramble

SIZE, WIDTH, LIMIT = 32, 12, 20
QUERY = "w07 w08 "
LORA: dict[str, Any] = {"r": 4, "target_modules": ["query"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and adapters: topics and wide by sentence-transformers, features and labels by PEFT."""
    folder = tmp_path_factory.mktemp("sentences")
    torch.manual_seed(0)
    base = transformers.BertForPreTraining(config(initializer_range=0.2))
    base.save_pretrained(folder / "base")
    tokenizer: Any = left_tokenizer(base)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder / "base")
    for path, head, task_type in (
        ("topics", "Model", "FEATURE_EXTRACTION"),
        ("wide/0_Transformer", "Model", None),
        ("features", "Model", "FEATURE_EXTRACTION"),
        ("labels", "ForSequenceClassification", "SEQ_CLS"),
    ):
        model = getattr(transformers, f"Bert{head}").from_pretrained(folder / "base", num_labels=3)
        scramble(peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, **LORA))).save_pretrained(folder / path)
    new_layout(folder / "topics", SIZE, ["max", "lasttoken", "weightedmean"], LIMIT, {"query": QUERY, "empty": ""}, None)
    old_layout(folder / "wide", SIZE, WIDTH, LIMIT)
    return folder


@pytest.fixture(scope="module")
def bundle(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapters = [str(saved / name) for name in ("topics", "wide", "labels")]
    folder = tmp_path_factory.mktemp("bundle")
    (texts := folder / "texts.txt").write_text("w05 w06\nw09 w03 w04\n")
    report = export(saved / "base", adapters=adapters, routed=True, calibration=texts, evaluation=texts, output=folder / "onnx")
    (variant,) = report.variants
    for rows in (variant.drift, variant.evaluation):
        assert [row.argmax_agreement for row in rows] == [None, None, 1]
        assert max(row.max_abs for row in rows) < 1e-5
    return report.output


def hidden(saved: Path, path: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The hidden states of PEFT's own model."""
    base = transformers.BertModel.from_pretrained(saved / "base")
    model: Any = peft.PeftModel.from_pretrained(base, saved / path).eval()
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
    return np.asarray(found.last_hidden_state.numpy())


def expected(saved: Path, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    mask = feeds["attention_mask"]
    if name == "topics":
        return normalized(pooled(hidden(saved, name, feeds), mask, ("max", "lasttoken", "weightedmean")))
    if name == "wide":
        weights = load_file(saved / "wide/2_Dense/model.safetensors")
        vectors = pooled(hidden(saved, "wide/0_Transformer", feeds), mask, ("cls", "mean"))
        return dense(vectors, weights["linear.weight"], weights["linear.bias"])
    return pooled(hidden(saved, "features", feeds), mask, ("mean_sqrt_len_tokens",))


def test_embeddings_of_a_graph(saved: Path, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    entries = {task.name: (task.head, task.width) for task in manifest.tasks}
    assert entries == {
        "topics": ("sentence_embedding", 3 * SIZE),
        "wide": ("sentence_embedding", WIDTH),
        "labels": ("classification", 0),
    }
    assert manifest.max_lengths == {"sequence": LIMIT}
    assert manifest.tasks[0].prompts == {"query": QUERY, "empty": ""}
    feeds = inputs((4, 9))
    feeds["attention_mask"][1] = [0, 0, 0, 1, 1, 1, 1, 1, 1]  # padded on the left
    found = run_graph(bundle, feeds)
    for name in ("topics", "wide"):
        assert_parity(found[name].astype(np.float64), expected(saved, name, feeds))


def test_texts_do_not_depend_on_their_batch(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    texts = ["w05 w06", "w09 " * 15, "w11"]
    together = predictor.encode_texts(texts, prompt=QUERY)
    assert list(together) == ["topics", "wide"]
    for number, text in enumerate(texts):
        for name, vectors in predictor.encode_texts([text], prompt=QUERY).items():
            np.testing.assert_allclose(vectors[0], together[name][number], atol=2e-6)
    prompted = predictor.encode_texts(texts, ["topics"], prompt_name="query")["topics"]
    np.testing.assert_allclose(prompted, together["topics"], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(prompted, axis=1), 1, atol=1e-6)


def test_a_routed_graph_of_embeddings_and_labels(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    texts, tasks = ["w05 w06", "w09 w03 w04", "w11"], ["wide", "topics", "wide"]
    every = predictor.run(feeds := inputs((2, 6)))
    routed = predictor.run_routed(feeds, ["wide", "labels", "topics"], [1, 0, 1])
    for vector, name, row in zip(routed, ("wide", "labels", "topics"), (1, 0, 1), strict=True):
        np.testing.assert_allclose(vector, every[name][row], atol=2e-6)
    vectors = predictor.encode_texts(texts)
    for number, vector in enumerate(predictor.encode_texts_routed(texts, tasks)):
        np.testing.assert_allclose(vector, vectors[tasks[number]][number], atol=2e-6)


def test_tasks_without_pooling_are_named(saved: Path) -> None:
    plan = make_plan(load(saved / "base", False, adapters=[str(saved / "features")]), None, 0)
    (note,) = without_pooling(plan)
    assert note == (
        "features gives the hidden states of the tokens; for one embedding of a text, name its pooling, such as --pooling "
        "features=mean"
    )
    with pytest.raises(ExportError, match=r"one vector per row .*found features \(hidden_states\)"):
        check_routable(plan, "omit --routed")


def test_a_pooling_of_the_command_line(saved: Path) -> None:
    options = export_parser().parse_args(["--pooling", "features=mean_sqrt_len"])
    found = load(saved / "base", False, adapters=[str(saved / "features")], pooling=pooling_of(options.pooling))
    compare_with_library(found, plan := make_plan(found, None, 0))
    feeds = inputs((3, 6))
    (group,) = prune(found.model, plan)
    assert_parity(eager(group, plan, plan.tasks[0], feeds)[0].astype(np.float64), expected(saved, "by_name", feeds))
    with pytest.raises(ExportError, match="names the adapter 'a' twice"):
        pooling_of(["a=mean", "a=cls"])


def test_live_models_are_not_changed(saved: Path) -> None:
    base = transformers.BertModel.from_pretrained(saved / "base")
    model: Any = peft.PeftModel.from_pretrained(base, saved / "features", "one").eval()
    plan = make_plan(found := load(model, False, pooling={"one": "cls+max"}), None, 0)
    assert (plan.tasks[0].head.kind, plan.tasks[0].head.width) == ("sentence_embedding", 2 * SIZE)
    feeds = inputs((3, 5))
    (group,) = prune(found.model, plan)
    vectors = eager(group, plan, plan.tasks[0], feeds)[0]
    assert_parity(vectors.astype(np.float64), pooled(hidden(saved, "features", feeds), feeds["attention_mask"], ("cls", "max")))
    assert not hasattr(model, "vector_heads")
    assert not model._forward_hooks


def test_a_prompt_is_pooled_with_the_text(saved: Path) -> None:
    base = transformers.BertModel.from_pretrained(saved / "base")
    settings = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    model: Any = peft.get_peft_model(base, settings, "one").eval()
    plan = make_plan(found := load(model, False, pooling={"one": "mean+lasttoken"}), None, 0)
    feeds = inputs((3, 5))
    (group,) = prune(found.model, plan)
    with quiet(), torch.no_grad():  # PEFT says that prompts have no token types
        states = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
        vectors = eager(group, plan, plan.tasks[0], feeds)[0].astype(np.float64)
    mask = np.pad(feeds["attention_mask"], ((0, 0), (3, 0)), constant_values=1)
    assert_parity(vectors, pooled(states, mask, ("mean", "lasttoken")))


def test_a_live_model_of_sentence_transformers() -> None:
    with pytest.raises(ExportError, match=r"found a SentenceTransformer: save it with save_pretrained\(folder\), and export"):
        load(type("SentenceTransformer", (torch.nn.Sequential,), {})())


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"features": "median"}, "the pooling of 'features' must be one of cls, max, .*found 'median'"),
        ({"features": "cls+cls"}, "found 'cls.cls'"),
        ({"features": 3}, "found 3"),
        ({"other": "mean"}, "unknown adapter 'other' in pooling; adapters: features, labels, topics"),
        ({"labels": "mean"}, "the adapter 'labels' has a head of type classification: a pooling is for"),
        ({"topics": "mean"}, "the adapter 'topics' has a pooling in the modules.json of its folder"),
        ("mean", "pooling must be a mapping"),
    ],
)
def test_a_wrong_pooling(saved: Path, pooling: Any, message: str) -> None:
    adapters = [str(saved / name) for name in ("features", "labels", "topics")]
    with pytest.raises(ExportError, match=message):
        load(saved / "base", False, adapters=adapters, pooling=pooling)


def test_a_pooling_without_peft_adapters_is_refused() -> None:
    with pytest.raises(ExportError, match=r"which this model does not have: omit the pooling of 'one', 'other'$"):
        check_poolable({"one": "mean", "other": "cls"})
    check_poolable({})


OLD = "sentence_transformers.models."
BASE, NEW = "base.modules", "sentence_transformer.modules"
_POOL = {"word_embedding_dimension": SIZE}
_DENSE = {"in_features": 2 * SIZE, "out_features": WIDTH, "bias": True}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "1_Pooling/config.json",
            {**_POOL, "pooling_mode_median_tokens": True},
            "sets pooling_mode_median_tokens",
        ),
        ("1_Pooling/config.json", {**_POOL, "pooling_mode": "median"}, "has the pooling_mode 'median': expected cls, max"),
        (
            "1_Pooling/config.json",
            {"word_embedding_dimension": 16},
            "pools vectors of 16 numbers, but the base model has 32: choose",
        ),
        ("2_Dense/config.json", {**_DENSE, "in_features": 16}, "has in_features 16, but the module before it gives 64"),
        ("2_Dense/config.json", {**_DENSE, "out_features": 4}, r"has linear.* of shape .*: expected \[4"),
        ("2_Dense/config.json", {**_DENSE, "out_features": "x"}, "must have out_features, found 'x'"),
        (
            "2_Dense/config.json",
            {**_DENSE, "bias": False},
            "has the weights linear.bias, linear.weight: ",
        ),
        (
            "2_Dense/config.json",
            {**_DENSE, "activation_function": "os.system"},
            "'os.system', which is not supported",
        ),
        ("2_Dense/config.json", {**_DENSE, "module_input_name": "token_embeddings"}, "sets module_input_name to"),
        ("modules.json", {"a": 1}, "must contain a list of modules"),
        ("modules.json", [], "must begin with a Transformer, found none"),
        ("0_Transformer/sentence_bert_config.json", {"do_lower_case": True}, "sets do_lower_case, the tokenizer does not"),
        ("0_Transformer/sentence_bert_config.json", {"model_args": {"x": 1}}, "sets model_args to"),
        ("0_Transformer/sentence_bert_config.json", {"transformer_task": "fill-mask"}, "the transformer_task 'fill-mask'"),
        (
            "0_Transformer/sentence_bert_config.json",
            {"max_seq_length": 9},
            "and 'wide' have a max_seq_length of 20 and 9",
        ),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}, "must be texts by name"),
        ("config_sentence_transformers.json", {"default_prompt_name": "b"}, "must be one of .*found 'b'"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "must be a positive number, found 0"),
    ],
)
def test_a_damaged_folder(saved: Path, tmp_path: Path, file: str, content: Any, message: str) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    write(folder / file, content)
    with pytest.raises(ExportError, match=message):
        load(saved / "base", False, adapters=[str(saved / "topics"), str(folder)])


def test_a_pooling_without_the_prompt(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    write(folder / "1_Pooling/config.json", {**_POOL, "pooling_mode": ["cls", "mean"], "include_prompt": False})
    write(folder / "config_sentence_transformers.json", {"prompts": {"document": ""}})
    load(saved / "base", False, adapters=[str(folder)])
    write(folder / "config_sentence_transformers.json", {"prompts": {"document": "", "query": QUERY}})
    with pytest.raises(ExportError, match=r"sets include_prompt to False, .*; remove the prompts"):
        load(saved / "base", False, adapters=[str(folder)])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ((f"{OLD}Transformer",), "must have a Pooling after the Transformer, found none"),
        ((f"{OLD}Transformer", f"{OLD}Dense"), "must have a Pooling after the Transformer, found Dense"),
        (
            (f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}CNN"),
            "a module of type '.*CNN', which is not supported",
        ),
        (
            (f"{OLD}Transformer", f"{OLD}Pooling", "evil.Module"),
            "a module of type 'evil.Module', which is",
        ),
        ((f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Pooling"), "has a second Pooling"),
    ],
)
def test_unsupported_modules(saved: Path, tmp_path: Path, kinds: tuple[str, ...], message: str) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    (tmp_path / "evil.py").write_text("raise SystemExit(3)")
    modules(folder, *zip(kinds, ("0_Transformer", "1_Pooling", "2_Dense"), strict=False))
    with pytest.raises(ExportError, match=message):
        load(saved / "base", False, adapters=[str(folder)])


@pytest.mark.parametrize(
    "kinds",
    [
        ("models.Transformer", "models.Pooling", "models.Normalize"),
        ("models.Transformer.Transformer", "models.Pooling.Pooling", "models.Normalize.Normalize"),
        (f"{BASE}.transformer.Transformer", f"{NEW}.pooling.Pooling", f"{NEW}.normalize.Normalize"),
        (f"{BASE}.transformer.Transformer", f"{NEW}.pooling.Pooling", f"{BASE}.normalize.Normalize"),
        (f"{BASE}.Transformer", f"{NEW}.Pooling", f"{NEW}.Normalize"),
    ],
    ids=["2", "files of 2", "5.7", "6", "packages of 5.7"],
)
def test_names_of_modules_by_version(saved: Path, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    types = [f"sentence_transformers.{kind}" for kind in kinds]
    modules(folder, *zip(types, ("0_Transformer", "1_Pooling", "2_Normalize"), strict=True))
    steps = read_sentence_folder(Part("peft", "wide", None, folder / "0_Transformer", {}), SIZE).embedder.steps
    assert [type(step).__name__ for step in steps] == ["Normalize"]


def test_truncated_embeddings(saved: Path, tmp_path: Path) -> None:
    """As `SentenceTransformer.encode`: after all modules, without another normalization."""
    folder = shutil.copytree(saved / "topics", tmp_path / "topics")
    part = Part("peft", "topics", None, folder, {})
    whole = read_sentence_folder(part, SIZE).embedder
    write(folder / "config_sentence_transformers.json", {"truncate_dim": 5})
    short = read_sentence_folder(part, SIZE).embedder
    hidden, mask = torch.randn(2, 3, SIZE), torch.ones(2, 3, dtype=torch.int64)
    assert (short.width, whole.width) == (5, 3 * SIZE)
    assert torch.equal(short(hidden, mask), whole(hidden, mask)[:, :5])
    assert short.structure() != whole.structure()
    write(folder / "config_sentence_transformers.json", {"truncate_dim": 1000})
    assert read_sentence_folder(part, SIZE).embedder.width == 3 * SIZE


def test_a_module_outside_of_the_folder(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    modules(folder, (f"{OLD}Transformer", "0_Transformer"), (f"{OLD}Pooling", "../wide/1_Pooling"))
    with pytest.raises(ExportError, match=r"has a module in '\.\./wide/1_Pooling': expected a folder in this folder"):
        load(saved / "base", False, adapters=[str(folder)])


def test_weights_that_are_not_finite(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "wide")
    weights = load_file(path := folder / "2_Dense/model.safetensors")
    weights["linear.bias"][1] = np.nan
    save_file(weights, path)
    with pytest.raises(ExportError, match=r"2_Dense' has NaN or infinity in linear.bias"):
        load(saved / "base", False, adapters=[str(folder)])


def test_a_cross_encoder_has_its_own_head(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "labels", tmp_path / "scores")
    modules(folder, ("sentence_transformers.base.modules.transformer.Transformer", ""))
    write(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    plan = make_plan(load(saved / "base", False, adapters=[str(folder)]), None, 0)
    assert plan.tasks[0].head.kind == "classification"


def test_adapters_in_subfolders_keep_their_names(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "wide", tmp_path / "several")
    shutil.rmtree(folder / "0_Transformer")
    modules(folder, (f"{OLD}Transformer", ""), (f"{OLD}Pooling", "1_Pooling"))
    for name in ("one", "two"):
        shutil.copytree(saved / "features", folder / name)
    plan = make_plan(load(saved / "base", False, adapters=[str(folder)]), None, 0)
    assert [(task.name, task.head.kind) for task in plan.tasks] == [("one", "hidden_states"), ("two", "hidden_states")]


def test_two_tokenizers(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "topics", tmp_path / "topics")
    tokenizer = json.loads((saved / "base/tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {f"x{word}": number for word, number in tokenizer["model"]["vocab"].items()}
    write(folder / "tokenizer.json", tokenizer)
    with pytest.raises(ExportError, match="'topics' was saved with another tokenizer"):
        load(saved / "base", False, adapters=[str(folder)])
