"""PEFT adapters of several task types, classes and tuners on one base, against `PeftModel.from_pretrained`."""

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
from safetensors.torch import load_file, save_file

from exporter import export
from exporter.checkpoints.assign import check_base_name
from exporter.checkpoints.load import Checkpoint, load
from exporter.checkpoints.peft_reference import References
from exporter.checkpoints.scan import Part, scan
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError, VerificationError
from exporter.models.mixed import MixedModel
from exporter.plan import Plan
from exporter.planning.make_plan import make_plan
from exporter.prune.task_groups import prune
from exporter.verify.eager import eager
from exporter.verify.library_reference import compare_with_library
from runtime.bundle import OUTPUTS
from tests.helpers.batch_independence import left_tokenizer
from tests.helpers.support_models import CONFIGS
from tests.helpers.tiny_models import assert_parity, inputs, run_graph
from tests.helpers.tiny_peft import TRANSFORMERS_5, answer, config, scramble

LORA: dict[str, Any] = {"r": 4, "target_modules": ["query"]}
SCALED = peft.IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[])
# Name -> class, labels, configuration of PEFT.
ADAPTERS: dict[str, tuple[str, int, Any]] = {
    "sentiment": ("BertForSequenceClassification", 3, peft.LoraConfig(task_type="SEQ_CLS", **LORA)),
    "entailment": ("BertForSequenceClassification", 2, peft.LoraConfig(task_type="SEQ_CLS", **LORA)),
    "plain": ("BertForSequenceClassification", 2, peft.LoraConfig(modules_to_save=["classifier"], **LORA)),
    "scaled": ("BertForSequenceClassification", 2, SCALED),
    "names": ("BertForTokenClassification", 5, peft.LoraConfig(task_type="TOKEN_CLS", **LORA)),
    "projected": ("BertForTokenClassification", 2, peft.VeraConfig(task_type="TOKEN_CLS", projection_prng_key=3, **LORA)),
    "other_key": ("BertForTokenClassification", 2, peft.VeraConfig(task_type="TOKEN_CLS", projection_prng_key=4, **LORA)),
    "answers": ("BertForQuestionAnswering", 2, peft.LoraConfig(task_type="QUESTION_ANS", **LORA)),
    "choices": ("BertForMultipleChoice", 2, peft.LoraConfig(modules_to_save=["classifier"], **LORA)),
    "features": ("BertModel", 2, peft.LoraConfig(task_type="FEATURE_EXTRACTION", **LORA)),
    "masks": ("BertForMaskedLM", 2, peft.LoraConfig(**LORA)),
}
EXPORTED = ("scaled", "choices", "features")


def base(folder: Path, name: str) -> Any:
    kind, labels, _ = ADAPTERS[name]
    return getattr(transformers, kind).from_pretrained(folder / "base", num_labels=labels).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base and each adapter."""
    folder = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    transformers.BertForPreTraining(config(initializer_range=0.2)).save_pretrained(folder / "base")
    for number, (name, (_, _, settings)) in enumerate(ADAPTERS.items()):
        torch.manual_seed(number)
        scramble(peft.get_peft_model(base(folder, name), settings)).save_pretrained(folder / name)
    labels = {label: number for number, label in enumerate(("O", "PER", "LOC", "ORG", "MISC"))}
    (folder / "names" / "config.json").write_text(json.dumps({"label2id": labels}))
    return folder


def loaded(folder: Path, *names: str) -> Checkpoint:
    return load(folder / "base", False, adapters=[f"{name}={folder / name}" for name in names])


def expected(folder: Path, name: str, feeds: dict[str, np.ndarray], drop: int = 0) -> list[np.ndarray]:
    """The outputs of PEFT's own model, in which the adapters of the dropped layers are disabled."""
    model = peft.PeftModel.from_pretrained(base(folder, name), folder / name).eval()
    for path, module in model.named_modules():
        if any(f".layer.{layer}." in path for layer in range(drop)) and hasattr(module, "enable_adapters"):
            module.enable_adapters(False)
    given = {key: torch.from_numpy(value) for key, value in feeds.items()}
    if name == "choices":
        given = {key: value[:, None] for key, value in given.items()}
    with torch.no_grad():
        output = model(**given)
    fields = {"answers": OUTPUTS["question_answering"], "features": OUTPUTS["hidden_states"]}.get(name, ("logits",))
    return [output[field].numpy() for field in fields]


def test_every_task_of_a_mixed_model(saved: Path) -> None:
    checkpoint = loaded(saved, *ADAPTERS)
    assert isinstance(checkpoint.model, MixedModel)
    plan = make_plan(checkpoint, None, 0)
    assert [task.name for task in plan.tasks] == list(ADAPTERS)
    compare_with_library(checkpoint, plan)
    assert len(plan.groups) == len(ADAPTERS) - 1
    assert plan.groups[0] == plan.tasks[:2]
    labels = {task.name: task.head.labels for task in plan.tasks}
    assert labels["names"] == ("O", "PER", "LOC", "ORG", "MISC")
    assert len(labels["sentiment"]) == 3
    groups = prune(checkpoint.model, plan)
    feeds = inputs((3, 6))
    for group in groups:
        for task in group.tasks:
            for one, other in zip(eager(group, plan, task, feeds), expected(saved, task.name, feeds), strict=True):
                assert_parity(one, other)
    embeddings = {group.model.get_input_embeddings().weight.data_ptr() for group in groups}
    assert len(embeddings) == 1


def test_an_export_of_mixed_heads(saved: Path, tmp_path: Path) -> None:
    adapters = [f"{name}={saved / name}" for name in EXPORTED]
    report = export(saved / "base", False, adapters=adapters, drop=1, output=tmp_path / "onnx")
    assert [task.head for task in report.tasks] == ["classification", "multiple_choice", "hidden_states"]
    assert report.variants[0].shared == "embeddings, layer 0, layer 1 up to its first adapter"
    feeds = inputs((5, 4))
    for name, found in run_graph(tmp_path / "onnx", feeds).items():
        assert_parity(found, expected(saved, name, feeds, drop=1)[0])


def test_token_types_of_questions_are_dropped_as_by_the_library(saved: Path) -> None:
    checkpoint = loaded(saved, "answers")
    plan: Plan = make_plan(checkpoint, None, 0)
    feeds = inputs((2, 5))
    other = {**feeds, "token_type_ids": 1 - feeds["token_type_ids"]}
    (group,) = prune(checkpoint.model, plan)
    for one, two in zip(eager(group, plan, plan.tasks[0], feeds), eager(group, plan, plan.tasks[0], other), strict=True):
        assert np.array_equal(one, two)


def test_a_wrongly_loaded_adapter_is_found(saved: Path) -> None:
    checkpoint = loaded(saved, "sentiment", "names")
    plan = make_plan(checkpoint, None, 0)
    with torch.no_grad():
        next(p for name, p in checkpoint.model.named_parameters() if "lora_B.names" in name).add_(0.5)
    with pytest.raises(VerificationError, match=r"differ from those that PEFT itself loads .*\n  names: max"):
        compare_with_library(checkpoint, plan)


def test_a_task_with_another_name_has_the_head_of_its_adapter(saved: Path) -> None:
    plan = make_plan(loaded(saved, "entailment", "sentiment"), {"first": "sentiment"}, 0)
    assert len(plan.tasks[0].head.labels) == 3


def test_lora_on_the_classifier(saved: Path, tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(saved / "base")
    model.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=2, target_modules=["query", "classifier"])
    scramble(peft.get_peft_model(model, settings)).save_pretrained(tmp_path / "adapter")
    checkpoint = load(tmp_path / "base", False, adapters=[str(tmp_path / "adapter")])
    compare_with_library(checkpoint, make_plan(checkpoint, None, 0))


def test_live_models_of_one_trunk(saved: Path) -> None:
    one, two = (peft.PeftModel.from_pretrained(base(saved, name), saved / name, name) for name in ("sentiment", "answers"))
    plan = make_plan(load([one, two], False), None, 0)
    assert [task.head.kind for task in plan.tasks] == ["classification", "question_answering"]
    again = peft.PeftModel.from_pretrained(base(saved, "sentiment"), saved / "sentiment", "answers")
    with pytest.raises(ExportError, match="two models have an adapter 'answers'"):
        load([again, two], False)
    smaller = transformers.BertModel(config(num_hidden_layers=1))
    with pytest.raises(ExportError, match=r"different trunks: num_hidden_layers is 2 in .* and 1 in BertModel"):
        load([one, peft.get_peft_model(smaller, peft.LoraConfig(**LORA), "small")], False)


def test_a_damaged_adapter_of_several(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    (folder / "adapter_config.json").write_text((saved / "names" / "adapter_config.json").read_text())
    weights = load_file(saved / "names" / "adapter_model.safetensors")
    weights.pop(next(key for key in weights if "lora_A" in key))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"the adapter 'names' in .* lacks 1 weights"):
        load(saved / "base", False, adapters=[f"{saved / 'sentiment'}", f"{folder}"])


def changed(folder: Path, **settings: Any) -> Path:
    """A copy of an adapter with other entries in its configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_adapters_over_quantized_weights_fit_the_plain_base(saved: Path, tmp_path: Path) -> None:
    adapter = changed(shutil.copytree(saved / "sentiment", tmp_path / "a"), base_model_name_or_path="unsloth/Base-bnb-4bit")
    weights = {key: tensor.bfloat16() for key, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, adapter / "adapter_model.safetensors")
    part = Part("peft", "a", None, adapter, json.loads((adapter / "adapter_config.json").read_text()))
    check_base_name(part, part.config["base_model_name_or_path"], "org/base")
    with pytest.raises(ExportError, match="trained for the model 'unsloth/Base-bnb-4bit', not for 'org/other'"):
        check_base_name(part, part.config["base_model_name_or_path"], "org/other")
    checkpoint = load(saved / "base", False, adapters=[str(adapter)])
    compare_with_library(checkpoint, make_plan(checkpoint, None, 0))


@pytest.mark.parametrize("name", ["./base", "../org/other", "runs/bert/final", "C:\\\\base", "~/base"])
def test_folder_names_of_bases_are_not_compared(name: str, tmp_path: Path) -> None:
    check_base_name(Part("peft", "a", None, tmp_path, {}), name, "org/base")


def test_a_named_folder_is_the_adapter_in_itself(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "sentiment", tmp_path / "a")
    shutil.copytree(saved / "entailment", folder / "b")
    assert [part.name for part in scan(Source("a", folder))] == ["a", "b"]
    assert [(part.name, part.folder) for part in scan(Source("a", folder), "one")] == [("one", folder)]


def test_checkpoints_of_a_training_are_named(saved: Path, tmp_path: Path) -> None:
    for number in (900, 1000):
        shutil.copytree(saved / "sentiment", tmp_path / f"checkpoint-{number}")
    with pytest.raises(ExportError, match=r"checkpoints of a training: give the folder of one, such as .*checkpoint-1000'"):
        scan(Source("a", tmp_path), "one")


def test_a_quantized_base_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "base", tmp_path / "base")
    settings = json.loads((folder / "config.json").read_text())
    for method in ("bitsandbytes", "gptq", "torchao"):
        (folder / "config.json").write_text(json.dumps({**settings, "quantization_config": {"quant_method": method}}))
        with pytest.raises(ExportError, match=rf"quantized \({method}\), and only .* give the full-precision model"):
            load(folder, False, adapters=[str(saved / "sentiment")])


def test_two_adapters_of_one_name(saved: Path, tmp_path: Path) -> None:
    same = shutil.copytree(saved / "sentiment", tmp_path / "sentiment")
    assert load(saved / "base", False, adapters=[str(saved / "sentiment"), str(same)]).model.peft_config.keys() == {"sentiment"}
    changed(same, lora_alpha=3)
    with pytest.raises(ExportError, match="two different adapters have the name 'sentiment'"):
        load(saved / "base", False, adapters=[str(saved / "sentiment"), str(same)])


def test_an_adapter_with_another_tokenizer_or_vocabulary(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "base", tmp_path / "base")
    adapter = shutil.copytree(saved / "sentiment", tmp_path / "sentiment")
    (folder / "vocab.txt").write_text("[PAD]\nthe\n")
    (adapter / "vocab.txt").write_text("[PAD]\nthe\n")
    load(folder, False, adapters=[str(adapter)])
    (adapter / "vocab.txt").write_text("[PAD]\na\nthe\n")
    with pytest.raises(
        ExportError, match=r"'sentiment' was saved with another tokenizer .* 'a' has the id 1 in .* and None in"
    ):
        load(folder, False, adapters=[str(adapter)])
    weights = load_file(saved / "sentiment" / "adapter_model.safetensors")
    key = "base_model.model.bert.embeddings.word_embeddings.weight"
    (adapter / "vocab.txt").unlink()
    save_file({**weights, key: torch.ones(120, 32)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="has embeddings of 120 tokens, the base model 101: it was trained with resized"):
        load(folder, False, adapters=[str(adapter)])


def test_a_tokenizer_that_was_saved_with_an_adapter(saved: Path, tmp_path: Path) -> None:
    first, second = (shutil.copytree(saved / name, tmp_path / name) for name in ("sentiment", "plain"))
    tokenizer: Any = left_tokenizer(loaded(saved, "sentiment").model)
    tokenizer.save_pretrained(second)
    adapters = [str(first), str(second)]
    found = load(saved / "base", adapters=adapters)
    assert "w07" in found.tokenizer.get_vocab()
    assert found.notes == (f"the tokenizer is that of {str(second)!r}: the model folder has none",)
    assert load(saved / "base", False, adapters=adapters).notes == ()
    content = json.loads((second / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {**vocabulary, "w07": vocabulary["w08"], "w08": vocabulary["w07"]}
    (first / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"'plain' was saved with another tokenizer than that of the adapter 'sentim.*'w07'"):
        load(saved / "base", adapters=adapters)


def test_labels_that_were_saved_with_an_adapter(saved: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(saved / "names", tmp_path / "names")
    (adapter / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    plan = make_plan(load(saved / "base", False, adapters=[str(adapter)]), None, 0)
    assert plan.tasks[0].head.labels == tuple(f"LABEL_{number}" for number in range(5))
    (adapter / "config.json").write_text(json.dumps({"label2id": dict.fromkeys("abcde", "x")}))
    with pytest.raises(ExportError, match=r"the config.json that was saved with the adapter 'names' must have distinct ids"):
        make_plan(load(saved / "base", False, adapters=[str(adapter)]), None, 0)


def test_adapters_of_a_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = transformers.GPT2Config(vocab_size=101, n_embd=32, n_layer=2, n_head=4, n_positions=48)
    model = transformers.GPT2LMHeadModel(settings)
    model.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    scramble(peft.get_peft_model(model, lora)).save_pretrained(tmp_path / "words")
    checkpoint = load(tmp_path / "base", False, adapters=[str(tmp_path / "words")])
    plan = make_plan(checkpoint, None, 0)
    assert plan.tasks[0].head.kind == "causal_lm"
    compare_with_library(checkpoint, plan)


@pytest.mark.skipif(TRANSFORMERS_5, reason="transformers 5 does not inject adapters of PEFT 0.21")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # of transformers' own call
def test_injected_adapters(saved: Path, tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(saved / "base", num_labels=3)
    model.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(modules_to_save=["classifier"], **LORA)
    for name in ("one", "two"):
        model.add_adapter(lora, name)
    scramble(model)
    checkpoint = load(model, False)
    plan = make_plan(checkpoint, None, 1)
    (group,) = prune(checkpoint.model, plan)
    feeds = inputs((3, 5))
    for task in plan.tasks:
        model.set_adapter(task.name)
        whole = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.detach().numpy()
        model.save_pretrained(tmp_path / task.name)
        saved_plan = make_plan(found := load(tmp_path / "base", False, adapters=[str(tmp_path / task.name)]), None, 0)
        (loaded_group,) = prune(found.model, saved_plan)
        assert_parity(eager(loaded_group, saved_plan, saved_plan.tasks[0], feeds)[0], whole)
        layer = model.bert.encoder.layer[0].attention.self.query
        layer.enable_adapters(False)
        dropped = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.detach().numpy()
        layer.enable_adapters(True)
        assert_parity(eager(group, plan, task, feeds)[0], dropped)
        assert model.active_adapters() == [task.name]


def test_images_do_not_need_the_packages_of_their_processor(tmp_path: Path) -> None:
    """In make test-peft5, neither Pillow nor torchvision is installed."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, patch_size=4, **sizes))
    model.save_pretrained(tmp_path / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2}
    content = {**settings, "auto_map": {"AutoImageProcessor": "code.Processor"}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(content))
    target = next(name.rpartition(".")[2] for name, _ in model.named_modules() if name.endswith(("query", "q_proj")))
    lora = peft.LoraConfig(r=2, target_modules=[target], modules_to_save=["classifier"])
    scramble(peft.get_peft_model(model, lora)).save_pretrained(tmp_path / "lora")
    load(tmp_path / "vit", adapters=[str(tmp_path / "lora")]).processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()) == settings


def test_a_mixed_model_of_peft() -> None:
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(
        transformers.BertForSequenceClassification(config()), peft.LoraConfig(**LORA), "one", mixed=True
    )
    model.add_adapter("two", peft.LoraConfig(r=2, target_modules=["value"]))
    scramble(model)
    checkpoint = load(model, False)
    plan = make_plan(checkpoint, None, 0)
    feeds = inputs((3, 5))
    for group in prune(checkpoint.model, plan):
        model.set_adapter(group.tasks[0].name)
        assert_parity(eager(group, plan, group.tasks[0], feeds)[0], answer(model, feeds).logits.numpy())


def _with_prompt(folder: Path, kind: Any, task_type: str | None, settings: Any = None) -> Path:
    torch.manual_seed(0)
    base = kind(settings or config())
    base.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(base, peft.PrefixTuningConfig(task_type=task_type or "SEQ_CLS", num_virtual_tokens=3))
    adapted.save_pretrained(str(folder / "prompt"))
    path = folder / "prompt" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_type": task_type}))
    return folder / "prompt"


def test_a_prompt_that_peft_does_not_run(tmp_path: Path) -> None:
    """The plain class ignores it, so that its positions would be missing in the logits of masked language models."""
    folder = _with_prompt(tmp_path / "none", transformers.BertForSequenceClassification, None)
    with pytest.raises(ExportError, match="'prompt' with the PEFT type PREFIX_TUNING has no task_type, and PEFT ignores"):
        load(tmp_path / "none" / "base", False, adapters=[str(folder)])
    folder = _with_prompt(tmp_path / "choices", transformers.BertForMultipleChoice, "SEQ_CLS")
    with pytest.raises(ExportError, match="'prompt' with the PEFT type PREFIX_TUNING does not run with BertForMultipleChoice"):
        load(tmp_path / "choices" / "base", False, adapters=[str(folder)])
    settings = transformers.ModernBertConfig(**CONFIGS["ModernBert"])
    folder = _with_prompt(tmp_path / "keys", transformers.ModernBertForSequenceClassification, "SEQ_CLS", settings)
    with pytest.raises(ExportError, match=r"run with ModernBertForSeq.*: PEFT gives a prefix to the model as past_key_values"):
        load(tmp_path / "keys" / "base", False, adapters=[str(folder)])


def test_labels_over_a_base_for_multiple_choice(saved: Path, tmp_path: Path) -> None:
    transformers.BertForMultipleChoice(config()).save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match=r"sentiment.* has a head with 3 labels, but BertForMultipleChoice gives one score"):
        load(tmp_path / "base", False, adapters=[f"sentiment={saved / 'sentiment'}"])


def test_a_prompt_of_another_width_than_the_embeddings() -> None:
    settings = config().to_dict() | {"embedding_size": 16}
    base = transformers.ElectraForSequenceClassification(transformers.ElectraConfig(**settings))
    model = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    with pytest.raises(ExportError, match=r"vectors of width 32, but .* ElectraForSequenceClassification have width 16"):
        make_plan(load(model), None, 0)


def test_questions_over_a_base_with_other_labels(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "base", tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": {number: str(number) for number in range(3)}}))
    checkpoint = load(tmp_path / "base", False, adapters=[str(saved / "answers")])
    plan = make_plan(checkpoint, None, 0)
    compare_with_library(checkpoint, plan)
    feeds = inputs((2, 6))
    (group,) = prune(checkpoint.model, plan)
    found = eager(group, plan, plan.tasks[0], feeds)
    for one, other in zip(found, expected(saved, "answers", feeds), strict=True):
        assert_parity(one, other)


def test_questions_over_a_base_whose_head_has_the_same_name(tmp_path: Path) -> None:
    """ModernBERT calls both heads `classifier`."""
    base: Any = transformers.ModernBertForSequenceClassification
    settings = transformers.ModernBertConfig(**CONFIGS["ModernBert"], num_labels=3)
    base(settings).save_pretrained(tmp_path / "base")
    spans: Any = transformers.ModernBertForQuestionAnswering
    model = spans.from_pretrained(tmp_path / "base", num_labels=2, ignore_mismatched_sizes=True)
    lora = peft.LoraConfig(task_type="QUESTION_ANS", target_modules=["Wqkv"], modules_to_save=["classifier"])
    scramble(peft.get_peft_model(model, lora)).save_pretrained(tmp_path / "spans")
    checkpoint = load(tmp_path / "base", False, adapters=[str(tmp_path / "spans")])
    compare_with_library(checkpoint, make_plan(checkpoint, None, 0))


def test_a_prompt_takes_positions_of_every_task() -> None:
    prompt = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)
    models = [
        peft.get_peft_model(transformers.BertForSequenceClassification(config()), settings, adapter_name=name)
        for name, settings in (("lora", peft.LoraConfig(task_type="SEQ_CLS", **LORA)), ("prompt", prompt))
    ]
    assert make_plan(load(models), None, 0).max_lengths["sequence"] == config().max_position_embeddings - 5


def test_adapters_that_change_the_base_model(saved: Path, tmp_path: Path) -> None:
    """KaSA removes singular values of the weights that all tasks share, when PEFT creates the adapter."""
    settings = peft.LoraConfig(task_type="SEQ_CLS", kasa_config=peft.tuners.lora.KasaConfig(), **LORA)
    scramble(peft.get_peft_model(base(saved, "sentiment"), settings)).save_pretrained(tmp_path / "truncated")
    sources = [f"truncated={tmp_path / 'truncated'}"]
    load(saved / "base", False, adapters=sources)
    for other in (f"entailment={saved / 'entailment'}", f"names={saved / 'names'}"):
        with pytest.raises(ExportError, match=r"loading 'truncated' changes weights .*query\.weight.* export such an adapter"):
            load(saved / "base", False, adapters=[other, *sources])


def test_references_keep_the_weights_of_the_base_model(saved: Path) -> None:
    own, references, feeds = base(saved, "sentiment"), References(), inputs((2, 5))
    references.add(own, {"sentiment": saved / "sentiment"})
    with torch.no_grad():
        for parameter in own.bert.parameters():
            parameter.data = torch.zeros_like(parameter)
    found = answer(references("sentiment"), feeds).logits.numpy()
    assert_parity(found, expected(saved, "sentiment", feeds)[0])
