"""Predictions by problem type, number of labels and architecture, against the pipelines of transformers.

Labels, values and scores are those of the pipeline of texts, with one difference: without a problem type, the value of a single
label is its logit, because the loss of transformers is that of a regression then. The pipelines of images and audio ignore the
problem type or always take softmax; the losses of their models are the same, so the same rules are tested.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import TextClassificationPipeline

import runtime
from exporter import export
from exporter.models.heads import find_head
from runtime.bundle import TaskEntry
from runtime.text.interpret import interpret_row
from runtime.text.prediction import Prediction
from tests.helpers.support_models import CONFIGS, randomize
from tests.helpers.tiny_peft import TRANSFORMERS_5
from tests.helpers.tiny_tokenizers import LARGEST_VOCABULARY, tiny_tokenizer

PIPELINE: Any = transformers.pipeline  # its overloads know no tokenizer that is an object
PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")
CASES = [(problem, count) for problem in PROBLEMS for count in (1, 2, 3, 5)]
if TRANSFORMERS_5:  # refuses it
    CASES.remove(("single_label_classification", 1))
# GPT-2 and XLNet read the types of the tokens of pairs as well.
TEXTS = ("Berlin", "Angela Merkel's trip to Łódź.", ("see the founded company,", "twice!"))
# Architecture -> modules with LoRA
TARGETS = {
    "Bert": ["query", "value"],
    "Roberta": ["query", "value"],
    "DistilBert": ["q_lin", "v_lin"],
    "DebertaV2": ["query_proj", "value_proj"],
    "ModernBert": ["Wqkv"],
    "XLNet": ["layer_1", "layer_2"],  # its projections are no modules
    "GPT2": ["c_attn"],
    "Llama": ["q_proj", "v_proj"],
    "Qwen3": ["q_proj", "v_proj"],
    "T5": ["q", "v"],
    "Bart": ["q_proj", "v_proj"],
    "ViT": ["query", "value", "q_proj", "v_proj"],  # the last two in transformers 5
    "Whisper": ["q_proj", "v_proj"],
}
_SETTINGS = {"XLNet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}}
_HEADS = {"ViT": "ImageClassification", "Whisper": "AudioClassification"}
_UNTYPED = ("DistilBert", "T5", "Bart")  # which refuse token types, as their tokenizers give none
_SHAPES = {"ViT": (2, 3, 12, 12), "Whisper": (2, 8, 20)}
_TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_NAMES = ("one", "two", "three", "four", "five")


def adapted(architecture: str, problem: str | None, count: int) -> Any:
    """A PEFT model; the models of an architecture differ in the adapter `adapter` and the head, which it has as well."""
    settings = dict(CONFIGS.get(architecture) or _SETTINGS[architecture])
    if architecture not in _HEADS:
        settings |= _TOKENS | {"vocab_size": LARGEST_VOCABULARY}
    labels = dict(enumerate(_NAMES[:count]))
    config = getattr(transformers, f"{architecture}Config")(**settings, id2label=labels, problem_type=problem)
    config.label2id = {label: number for number, label in labels.items()}
    kind = _HEADS.get(architecture, "SequenceClassification")
    torch.manual_seed(0)
    model = getattr(transformers, f"{architecture}For{kind}")(config)
    trunks = (model.base_model_prefix, "encoder")
    heads = [name for name, part in model.named_children() if name not in trunks and list(part.parameters())]
    randomize(model)
    transposed = architecture == "GPT2"
    adapter = peft.LoraConfig(r=2, target_modules=TARGETS[architecture], modules_to_save=heads, fan_in_fan_out=transposed)
    found = peft.get_peft_model(model, adapter, f"{problem}_{count}")
    torch.manual_seed(10 * PROBLEMS.index(problem) + count)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_" in name or f"modules_to_save.{problem}_{count}" in name:
                parameter.normal_(0, 0.4)
    return found.eval()


def scores_of(config: Any, logits: torch.Tensor) -> Mapping[str, float]:
    """The scores of the pipeline of texts for the logits of one text."""
    pipeline: Any = SimpleNamespace(model=SimpleNamespace(config=config), framework="pt")
    rows = TextClassificationPipeline.postprocess(pipeline, {"logits": logits[None]}, top_k=None, _legacy=False)
    return {row["label"]: row["score"] for row in rows}


def check(found: Prediction, config: Any, logits: torch.Tensor, wanted: Mapping[str, float]) -> None:
    count = config.num_labels
    if config.problem_type is None and count == 1:
        assert found.head == "regression"
        assert found.value == pytest.approx(logits.item(), abs=1e-4)
    elif config.problem_type == "regression":
        assert (found.label, found.labels, dict(found.scores)) == (None, (), {})
        assert found.value == (found.values[0] if count == 1 else None)
        assert dict(zip(config.id2label.values(), found.values, strict=True)) == pytest.approx(wanted, abs=1e-4)
    else:
        assert found.values == ()
        assert found.scores == pytest.approx(wanted, abs=1e-4)
        if config.problem_type == "multi_label_classification" or count == 1:
            assert found.labels == tuple(label for label, score in found.scores.items() if score >= 0.5)
        else:
            assert found.label == max(wanted, key=lambda label: wanted[label])


@pytest.mark.parametrize("architecture", TARGETS)
def test_heads(architecture: str) -> None:
    for problem, count in CASES:
        model = adapted(architecture, problem, count)
        head = find_head(model, f"{problem}_{count}", "")
        entry = TaskEntry("a", head.kind, head.labels, ("a",), "a")
        assert not list(entry.problems("a"))
        logits = torch.randn(count)
        found = interpret_row(entry, logits.numpy())
        check(found, model.config, logits, scores_of(model.config, logits))


@pytest.mark.parametrize(
    ("architecture", "cases"),
    [("GPT2", CASES[::3]), *(pytest.param(name, CASES, marks=pytest.mark.sweep) for name in TARGETS)],
    ids=["some", *TARGETS],
)
def test_predictions(architecture: str, cases: Sequence[tuple[str | None, int]], tmp_path: Path) -> None:
    models = [adapted(architecture, problem, count) for problem, count in cases]
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if architecture not in _UNTYPED else [])]
    tokenizer = None if architecture in _HEADS else tiny_tokenizer("wordpiece", 30, model_input_names=names)
    export(models, tokenizer, output=tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    for model in models:
        (name,) = model.peft_config
        plain = copy.deepcopy(model).merge_and_unload()
        if tokenizer is not None:
            pipeline = PIPELINE("text-classification", model=plain, tokenizer=tokenizer)
            for text, found in zip(TEXTS, predictor.predict(TEXTS, [name])[name], strict=True):
                parts = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
                scores = pipeline(parts, top_k=None)
                logits = pipeline(parts, top_k=None, function_to_apply="none")
                wanted, by_label = ({row["label"]: row["score"] for row in rows} for rows in (scores, logits))
                check(found, model.config, torch.tensor(list(by_label.values())), wanted)
            continue
        (given,) = predictor.manifest.inputs
        feeds = {given.name: np.random.default_rng(0).normal(size=_SHAPES[architecture]).astype(np.float32)}
        with torch.no_grad():
            expected = plain(torch.from_numpy(feeds[given.name])).logits
        (entry,) = predictor.entries([name])
        for row, logits in zip(predictor.run(feeds, [name])[name], expected, strict=True):
            check(interpret_row(entry, row), model.config, logits, scores_of(model.config, logits))
