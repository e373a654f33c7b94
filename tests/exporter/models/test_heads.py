"""Head types by problem type and number of labels, against the losses and the pipeline of transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adapters
import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import BertForSequenceClassification, TextClassificationPipeline

import runtime
from exporter import ExportError, export
from exporter.models.heads import find_head
from exporter.models.peft import adapters_of
from exporter.plan import Head
from runtime.bundle import TaskEntry, read_manifest
from runtime.text.interpret import interpret
from runtime.text.prediction import Prediction
from runtime.text.tokens import Tokens
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import add_task, bert_config, tokenizer

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
LOGITS = np.array([0.3, -1.2, 2.5], np.float32)
# problem type -> head type with 1, 2 and 3 labels
STATIC = {
    None: ("regression", "classification", "classification"),
    "regression": ("regression",) * 3,
    # transformers' pipeline gives the sigmoid of a single label
    SINGLE: ("multilabel", "classification", "classification"),
    MULTI: ("multilabel",) * 3,
}
TABLE = [(problem, count, kind) for problem, kinds in STATIC.items() for count, kind in enumerate(kinds, 1)]


def static(problem: str | None, count: int) -> Any:
    config = bert_config()
    config.num_labels, config.problem_type = count, problem
    torch.manual_seed(0)
    return BertForSequenceClassification(config)


def with_adapter(problem: str | None, count: int) -> Any:
    model = static(problem, count)
    adapters.init(model)
    model.add_adapter("a", config="seq_bn")
    return model


def with_peft(problem: str | None, count: int) -> Any:
    settings = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    return peft.get_peft_model(static(problem, count), settings, adapter_name="a")


def prediction(head: Head, logits: np.ndarray) -> Prediction:
    entry = TaskEntry("a", head.kind, head.labels, ("a",), "a")
    assert not list(entry.problems("a"))
    nothing: Any = None  # these heads read neither tokens nor the encoder
    return interpret(entry, [logits], "a", Tokens([], [], [], [], []), nothing)


@pytest.mark.parametrize("build", [with_adapter, with_peft])
@pytest.mark.parametrize(("problem", "count", "kind"), TABLE)
def test_heads_of_transformers(build: Any, problem: str | None, count: int, kind: str) -> None:
    model = build(problem, count)
    head = find_head(model, "a", "")
    assert head.kind == kind
    assert len(head.labels) == (0 if kind == "regression" and count == 1 else count)
    found = prediction(head, LOGITS[:count])
    if kind == "regression":
        assert found.values == tuple(map(float, LOGITS[:count]))
        assert found.value == (float(LOGITS[0]) if count == 1 else None)
        assert (found.label, found.labels, dict(found.scores)) == (None, (), {})
        assert list(found.to_dict()) == ["head", "drop", "value" if count == 1 else "values"]
    else:
        pipeline: Any = SimpleNamespace(model=SimpleNamespace(config=model.config), framework="pt")
        outputs = {"logits": torch.from_numpy(LOGITS[None, :count])}
        wanted = TextClassificationPipeline.postprocess(pipeline, outputs, top_k=None, _legacy=False)
        assert found.scores == pytest.approx({row["label"]: row["score"] for row in wanted}, abs=1e-6)
        if kind == "classification":
            assert found.label == wanted[0]["label"]
            assert found.score == pytest.approx(wanted[0]["score"], abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("problem", STATIC)
def test_named_heads_have_their_own_loss(problem: str | None, multilabel: bool, count: int) -> None:
    config = bert_config()
    config.problem_type = problem  # the adapters library does not read it
    model = adapters.AutoAdapterModel.from_config(config)
    model.add_classification_head("a", num_labels=count, multilabel=multilabel)
    head = find_head(model, "a", "a")
    assert head.kind == ("multilabel" if multilabel else "regression" if count == 1 else "classification")
    found = prediction(head, LOGITS[:count])
    if multilabel:
        assert list(found.scores.values()) == pytest.approx([1 / (1 + np.exp(-logit)) for logit in LOGITS[:count]])


def test_adapters_of_peft_with_another_number_of_labels() -> None:
    """A head with one output next to a base of three labels stays a regression."""
    model = with_peft(SINGLE, 3)
    assert list(adapters_of(model)) == ["a"]
    saved = model.base_model.model.classifier.modules_to_save
    saved["a"] = torch.nn.Linear(saved["a"].in_features, 1)
    assert find_head(model, "a", "").kind == "regression"


@pytest.mark.parametrize(
    ("own", "kind", "labels"),
    [
        # transformers leaves out two labels without names
        ({"model_type": "bert", "problem_type": SINGLE}, "classification", ("LABEL_0", "LABEL_1")),
        ({"model_type": "bert"}, "classification", ("LABEL_0", "LABEL_1")),
        ({"model_type": "bert", "label2id": {"yes": 0, "no": 1}}, "classification", ("yes", "no")),
        # a file with nothing but labels
        ({"label2id": {"yes": 0, "no": 1}}, "multilabel", ("yes", "no")),
        ({}, "multilabel", ("base0", "base1")),
    ],
)
def test_a_configuration_of_the_adapter_counts_as_a_whole(own: dict[str, Any], kind: str, labels: tuple[str, ...]) -> None:
    model = with_peft(MULTI, 2)
    model.config.id2label = {0: "base0", 1: "base1"}
    head = find_head(model, "a", "", own)
    assert (head.kind, head.labels) == (kind, labels)


def test_labels_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations whose num_labels is a field, such as that of PVT, can have no id2label."""
    model = with_adapter(None, 2)
    monkeypatch.setattr(type(model.config), "num_labels", 2)
    model.config.id2label = None
    assert find_head(model, "a", "").labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("label2id", [None, {}, {"yes": 0, "no": 1}, {"LABEL_0": 0, "LABEL_1": 1}])
def test_labels_are_those_of_the_pipelines(label2id: Any) -> None:
    """Many configurations have no label2id; transformers reads id2label."""
    model = with_adapter(None, 2)
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, label2id
    assert find_head(model, "a", "").labels == ("no", "yes")


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({0: "a", 2: "b"}, "must have distinct ids from 0 to 1, .* correct its id2label"),
        ({0: "a", 1: "a"}, "must be different names, .* correct its id2label"),
        ({0: "a", 1: None}, "must be different names, .* correct its id2label"),
    ],
)
def test_labels_that_no_prediction_could_have(id2label: Any, message: str) -> None:
    model = with_adapter(None, 2)
    model.config.id2label = id2label
    with pytest.raises(ExportError, match=message):
        find_head(model, "a", "")


def test_an_unknown_problem_type_is_refused() -> None:
    model = with_adapter(None, 2)
    model.config.problem_type = "ranking"
    with pytest.raises(
        ExportError, match=r"problem_type of BertForSequence.* must be one of None, regression.*found 'ranking'"
    ):
        find_head(model, "a", "")


@pytest.mark.parametrize("kind", ["Bloom", "GPTNeoX", "OPT", "Mistral"])
def test_a_head_of_the_last_token_needs_a_padding_id(kind: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=None)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    settings = peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")
    adapted = peft.get_peft_model(model, settings, adapter_name="a")
    with pytest.raises(ExportError, match=rf"{kind}ForSequenceClassification classifies the last .*set config\.pad_token_id"):
        find_head(adapted, "a", "")


def test_a_regression_with_several_outputs(tmp_path: Path) -> None:
    config = bert_config(VOCABULARY)
    config.num_labels, config.problem_type = 3, "regression"
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    adapters.init(model)
    for name in "ab":
        model.add_adapter(name, config="seq_bn")
    report = export(model, tokenizer=tokenizer(), output=tmp_path / "onnx", routed=True)
    assert [task.head for task in report.tasks] == ["regression"] * 2
    assert [len(task.labels) for task in read_manifest(tmp_path / "onnx").tasks] == [3, 3]
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    text = "a long and winding road"
    given = tokenizer()(text, return_tensors="pt")
    for name in "ab":
        model.set_active_adapters(name)
        with torch.no_grad():
            expected = model(**given).logits[0].tolist()
        (found,) = predictor.predict([text], [name])[name]
        assert found.values == pytest.approx(expected, abs=1e-5)
        (routed,) = predictor.run_routed({key: value.numpy() for key, value in given.items()}, [name])
        assert routed.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_single_label_of_several_has_a_sigmoid(tmp_path: Path) -> None:
    model = adapters.AutoAdapterModel.from_config(bert_config(VOCABULARY))
    model.add_adapter("a", config="seq_bn")
    model.add_classification_head("a", num_labels=1, multilabel=True)
    add_task(model, "b", "seq_bn", "reg")
    export(model.eval(), tokenizer=tokenizer(), output=tmp_path / "onnx")
    found = runtime.load(tmp_path / "onnx", provider="cpu", threads=1).predict(["a text"])
    model.set_active_adapters("a")
    model.active_head = "a"
    with torch.no_grad():
        logit = float(model(**tokenizer()("a text", return_tensors="pt")).logits)
    assert found["a"][0].scores == {"LABEL_0": pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)}
    assert found["b"][0].value is not None
