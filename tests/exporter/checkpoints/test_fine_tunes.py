"""Tasks without adapters: a model's own head and full fine-tunes, against the models as transformers loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, BertForTokenClassification

import runtime
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.errors import ExportError
from exporter.models.own_tasks import OwnModel, Sharing
from exporter.notes import shared_weights
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from tests.helpers.load_testing import edit
from tests.helpers.support_models import CONFIGS
from tests.helpers.tiny_models import assert_parity, inputs
from tests.helpers.tiny_peft import answer, config, scramble

LORA: dict[str, Any] = {"r": 3, "target_modules": ["query", "output.dense"], "modules_to_save": ["classifier"]}
EXPORTED = ("adapter", "own", "merged", "other", "upper", "whole", "whole too", "positions")


def changed(model: Any, *parts: str) -> Any:
    """The model with other weights wherever the name has one of the parts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in parts):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def fresh(folder: Path, kind: Any = BertForSequenceClassification, **settings: Any) -> Any:
    return kind.from_pretrained(folder / "base", ignore_mismatched_sizes=True, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    torch.manual_seed(0)
    labels = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
    BertForSequenceClassification(config(initializer_range=0.2, **labels)).save_pretrained(folder / "base")
    scramble(peft.get_peft_model(fresh(folder), peft.LoraConfig(**LORA))).save_pretrained(folder / "adapter")
    for name in ("merged", "other"):
        lora: Any = scramble(peft.get_peft_model(fresh(folder, num_labels=2 + (name == "other")), peft.LoraConfig(**LORA)))
        lora.merge_and_unload().save_pretrained(folder / name)
    changed(fresh(folder), "layer.1.", "classifier").save_pretrained(folder / "upper")
    for name in ("whole", "whole too"):
        changed(fresh(folder), "").save_pretrained(folder / name)
    changed(fresh(folder), "position_embeddings", "classifier").save_pretrained(folder / "positions")
    model = fresh(folder, BertForTokenClassification, num_labels=5)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[[3, 8]] += 0.5
    changed(model, "classifier", "query.bias").save_pretrained(folder / "names")
    changed(fresh(folder, transformers.BertForQuestionAnswering, num_labels=2), "").save_pretrained(folder / "answers")
    changed(fresh(folder, transformers.BertForMaskedLM), "transform").save_pretrained(folder / "masks")
    return folder


def test_a_head_of_another_size_than_its_configuration(saved: Path, tmp_path: Path) -> None:
    for name, task in (("model", "a=base"), ("tune", f"a={tmp_path / 'tune'}")):
        folder = shutil.copytree(saved / "base", tmp_path / name)
        edit(folder / "config.json", id2label=None, label2id=None)
        with pytest.raises(ExportError, match=r"'classifier.*' of shape \[3.* it has 2 labels; give it the id2label"):
            load(folder if name == "model" else saved / "base", False, adapters=[task])


@pytest.fixture(scope="module")
def bundle(saved: Path) -> Path:
    sources = [f"{name}={'base' if name == 'own' else saved / name}" for name in EXPORTED]
    adapters = [part for source in sources for part in ("--adapter", source)]
    arguments = ["--model", str(saved / "base"), *adapters, "--no-tokenizer", "--drop", "1", "--routed"]
    assert main([*arguments, "--quiet", "--json", "--output", str(saved / "onnx")]) == 0
    return saved / "onnx"


def expected(saved: Path, name: str, feeds: Mapping[str, np.ndarray], drop: int = 0) -> np.ndarray:
    """The logits of the task's own model; in dropped layers and below them, with the weights of the base model."""
    base = fresh(saved)
    model = base if name == "own" else BertForSequenceClassification.from_pretrained(saved / name)
    if name == "adapter":
        model = peft.PeftModel.from_pretrained(base, saved / name).merge_and_unload()
    known = fresh(saved).state_dict()
    below = ("embeddings.", *(f"layer.{layer}." for layer in range(drop))) if drop else ()
    model.load_state_dict({key: known[key] for key in known if any(part in key for part in below)}, strict=False)
    logits: np.ndarray = answer(model.eval(), feeds).logits.numpy()
    return logits


def test_the_graph_equals_the_models(saved: Path, bundle: Path) -> None:
    feeds = inputs((3, 9))
    predictor = runtime.load(bundle, provider="cpu")
    found = predictor.run(feeds)
    every = [row for row in range(3) for _ in EXPORTED]
    rows = predictor.run_routed(feeds, [*EXPORTED] * 3, rows=every)
    wanted = {name: expected(saved, name, feeds, drop=1) for name in EXPORTED}
    for name in EXPORTED:
        assert_parity(found[name], wanted[name])
    for place, row in enumerate(every):
        assert rows[place] == pytest.approx(wanted[EXPORTED[place % len(EXPORTED)]][row], abs=1e-5)
    manifest = {task.name: task.labels for task in predictor.manifest.tasks}
    assert manifest["own"] == ("bad", "so so", "good")
    assert manifest["merged"] == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(("name", "kind"), [("names", "tagging"), ("answers", "question_answering"), ("masks", "masked_lm")])
def test_heads_of_every_class(saved: Path, name: str, kind: str) -> None:
    """Also of other classes than the base model's, whose checkpoint then lacks a pooler or has other weights of that name."""
    checkpoint = load(saved / "base", False, ["own=base", f"{name}={saved / name}"])
    plan = make_plan(checkpoint, None, 0)
    assert [task.head.kind for task in plan.tasks] == ["classification", kind]
    compare_with_library(checkpoint, plan)
    feeds = inputs((2, 7))
    group = prune(checkpoint.model, plan)[1]
    model = getattr(transformers, type(group.model.model).__name__).from_pretrained(saved / name).eval()
    for found, field in zip(eager(group, plan, plan.tasks[1], feeds), ("start_logits", "end_logits"), strict=False):
        output = answer(model, feeds)
        assert_parity(found, output.get("logits", output.get(field)).numpy())


@pytest.mark.parametrize("form", ["whole", "rows", "rank"])
def test_weights_that_a_model_reads_without_a_call(form: str, tmp_path: Path) -> None:
    """The relative positions of DeBERTa are the weight of an embedding that is not called."""
    kind: Any = transformers.DebertaV2ForSequenceClassification
    torch.manual_seed(0)
    kind(transformers.DebertaV2Config(**{**CONFIGS["DebertaV2"], "vocab_size": 101})).save_pretrained(tmp_path / "base")
    model = kind.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        table = model.deberta.encoder.rel_embeddings.weight
        change = torch.randn(table.shape) if form != "rank" else torch.randn(len(table), 1) @ torch.randn(1, table.shape[1])
        table[: 1 if form == "rows" else None] += change[: 1 if form == "rows" else None]
    model.save_pretrained(tmp_path / "tune")
    checkpoint = load(tmp_path / "base", False, [f"tune={tmp_path / 'tune'}"])
    plan, feeds = make_plan(checkpoint, None, 0), inputs((3, 7))
    (group,) = prune(checkpoint.model, plan)
    (found,) = eager(group, plan, plan.tasks[0], feeds)
    assert_parity(found, answer(model, feeds).logits.numpy())


def test_what_is_shared(saved: Path) -> None:
    names = ("merged", "upper", "names", "answers", "masks")
    model = load(saved / "base", False, [f"{name}={saved / name}" for name in names]).model
    found = {name: task.sharing for part in model.parts for name, task in part.tasks.items()}
    trunk = len(list(fresh(saved).bert.parameters()))
    assert found["merged"] == Sharing(trunk - 6, (3,), 6)
    assert found["upper"] == Sharing(trunk - 16, (), 0, 16)
    assert found["names"] == Sharing(trunk - 2 - 3, (), 0, 3)
    assert found["masks"] == Sharing(trunk - 2)
    assert found["answers"].equal == 0


def test_the_report_says_what_is_shared(saved: Path) -> None:
    """Read from the notes of the plan, without another export."""
    checkpoint = load(saved / "base", False, ["own=base", *(f"{name}={saved / name}" for name in ("merged", "upper", "other"))])
    plan = make_plan(checkpoint, None, 0)
    merged, upper, own = sorted(shared_weights(plan, prune(checkpoint.model, plan)), key=len, reverse=True)
    assert merged.startswith("merged, other: a fine-tune with ")
    assert merged.endswith("; 6 differ by matrices of rank 3, as after merging a LoRA")
    assert upper.endswith("; 16 are stored as a whole")
    assert own == "own: the base model's trunk with a head only"
    assert [len(group) for group in plan.groups] == [1, 2, 1]


def test_own_head_of_live_models(saved: Path) -> None:
    """The user's model is not changed."""
    feeds = inputs((2, 7))
    plain = fresh(saved).eval()
    live = scramble(peft.get_peft_model(fresh(saved), peft.LoraConfig(task_type="SEQ_CLS", r=2)))
    flags = [parameter.requires_grad for parameter in live.parameters()]
    for model, names in ((plain, ["own"]), (live, ["default", "own"]), ([live], ["default", "own"])):
        checkpoint = load(model, False, ["own=base"])
        plan = make_plan(checkpoint, None, 0)
        assert [task.name for task in plan.tasks] == names
        (found,) = eager(prune(checkpoint.model, plan)[-1], plan, plan.tasks[-1], feeds)
        assert_parity(found, answer(plain, feeds).logits.numpy())
    assert [parameter.requires_grad for parameter in live.parameters()] == flags
    assert live.active_adapter == "default"


def weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def setting(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: setting(f, vocab_size=102), "is not a fine-tune of the model in .*: vocab_size is 102 instead of 101"),
        (lambda f: setting(f, hidden_size=64), "is not a fine-tune of .*: hidden_size is 64 instead of 32"),
        (lambda f: setting(f, model_type="roberta"), "is not a fine-tune of .*: model_type is 'roberta' instead of 'bert'"),
        (
            lambda f: setting(f, type_vocab_size=3),
            "has 1 weights of another shape .* first 'bert.embeddings.token_type",
        ),
        (lambda f: setting(f, architectures=["BertModel"]), r"without a prediction head \(BertModel\)"),
        (lambda f: setting(f, architectures=None), r"without a prediction head \(no class\)"),
        (lambda f: setting(f, quantization_config={"quant_method": "gptq"}), "the weights are quantized"),
        (lambda f: weights(f, lambda t: t.pop("classifier.weight")), "lacks 1 weights .* 'classifier.weight': its head is not"),
        (
            lambda f: weights(f, lambda t: t.pop("bert.encoder.layer.0.output.dense.bias")),
            "the task 'tune' in .* lacks 1 weights .*: save the complete model again",
        ),
        (
            lambda f: weights(f, lambda t: t["bert.encoder.layer.0.output.dense.bias"].fill_(torch.nan)),
            "the weight 'bert.encoder.layer.0.output.dense.bias' of the task 'tune' in .* contains NaN",
        ),
        (lambda f: (f / "vocab.txt").write_text("a\nc\n"), "was saved with another tokenizer"),
    ],
)
def test_damaged_fine_tunes(saved: Path, tmp_path: Path, damage: Any, message: str) -> None:
    for name in ("base", "upper"):
        shutil.copytree(saved / name, tmp_path / name)
    (tmp_path / "base" / "vocab.txt").write_text("a\nb\n")
    damage(tmp_path / "upper")
    with pytest.raises(ExportError, match=message):
        load(tmp_path / "base", False, [f"tune={tmp_path / 'upper'}"])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["base"], "the task of the model's own head has no name: expected NAME=base"),
        (["{}/upper"], "contains neither an adapter nor a fusion but a model: .* a name"),
        (["a={}/upper", "a={}/merged"], "two different tasks have the name 'a', one from .*upper' and one from .*merged'"),
        (["type={}/merged"], "the name 'type' of an adapter, head or task is that of an attribute of PyTorch's modules"),
        (["half={}/adapter"], "the name 'half' of an adapter, head or task .* choose another one"),
        (["a={}/adapter", "a=base"], "two different tasks have the name 'a'"),
        (["a={}/encoder"], "without a prediction head"),
        (["own=base", "a={}/adapterhub"], "from the adapters library, and the task 'own' in .* without an adapter"),
    ],
)
def test_names_and_sources_that_clash(saved: Path, tmp_path: Path, sources: list[str], message: str) -> None:
    for name in ("upper", "merged", "adapter"):
        shutil.copytree(saved / name, tmp_path / name)
    fresh(saved).bert.save_pretrained(tmp_path / "encoder")
    (tmp_path / "adapterhub").mkdir()
    (tmp_path / "adapterhub" / "adapter_config.json").write_text(json.dumps({"name": "a", "config": {}}))
    with pytest.raises(ExportError, match=message):
        load(saved / "base", False, [source.format(tmp_path) for source in sources])


def test_a_head_that_the_base_model_lacks(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "base", tmp_path / "base")
    weights(tmp_path / "base", lambda tensors: [tensors.pop(f"classifier.{key}") for key in ("weight", "bias")])
    with pytest.raises(ExportError, match=r"the task 'own' .* lacks 2 weights .* its head is not trained"):
        load(tmp_path / "base", False, ["own=base"])


def test_a_folder_that_is_called_base(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    model = load(saved / "upper", False, ["own=base"]).model
    assert isinstance(model, OwnModel)
    sharing = model.tasks["own"].sharing
    assert sharing is not None
    assert sharing.whole == 16
