"""predict() of an exported model gives the results of transformers' pipelines for the same model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import runtime
from exporter import export
from tests.helpers.runtime_bundles import rewrite
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import bert_config
from tests.helpers.tiny_peft import scramble
from tests.helpers.tiny_tokenizers import LARGEST_VOCABULARY, random_texts, tiny_tokenizer

LIMIT = 24
PIPELINE: Any = transformers.pipeline  # its overloads know no tokenizer that is an object
# The last two labels have no prefix of transformers'
LABELS = {
    "names": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "PER", "E-LOC"),
    "topic": ("sport", "news", "arts", "travel"),
    "flags": ("rude", "spam", "long", "short"),
}
PROBLEMS = {"topic": "single_label_classification", "flags": "multi_label_classification"}
STRATEGIES: tuple[Any, ...] = ("simple", "first", "average", "max")
TEXTS = ["", " ", "Berlin", "Angela Merkel's  trip to Łódź.", "see [SEP] or </s><unk> here", *random_texts(15)]


def tiny(name: str) -> Any:
    """A PEFT model whose labels change from token to token; the models have one trunk."""
    kind, task_type = ("Token", "TOKEN_CLS") if name == "names" else ("Sequence", "SEQ_CLS")
    config = bert_config(LARGEST_VOCABULARY)
    labels = dict(enumerate(LABELS[name]))
    problem = PROBLEMS.get(name)
    config.update({"max_position_embeddings": LIMIT, "num_hidden_layers": 1, "problem_type": problem})
    config.update({"id2label": labels, "label2id": {label: number for number, label in labels.items()}})
    torch.manual_seed(0)
    trunk = transformers.BertModel(config)
    model = getattr(transformers, f"BertFor{kind}Classification")(config)
    model.bert.load_state_dict(trunk.state_dict(), strict=False)
    torch.manual_seed(list(LABELS).index(name))
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, r=4, target_modules=["query", "value"]), name)
    with torch.no_grad():
        for key, parameter in scramble(adapted).named_parameters():
            if f"modules_to_save.{name}" in key:
                parameter.normal_(0, 0.7)
    return adapted


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: tiny(name) for name in LABELS}


@pytest.fixture(scope="module")
def bundle(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "onnx"
    export(list(models.values()), tiny_tokenizer("wordpiece", LIMIT), output=folder)
    return folder


def with_tokenizer(bundle: Path, folder: Path, tokenizer: Any) -> runtime.Predictor:
    shutil.copytree(bundle, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    rewrite(folder)
    return runtime.load(folder, provider="cpu", threads=1)


@pytest.fixture(scope="module", params=["wordpiece", "bpe", *swept("unigram")])
def both(
    request: pytest.FixtureRequest, models: dict[str, Any], bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[runtime.Predictor, Any]:
    """The predictor, and the pipeline with the same tokenizer."""
    tokenizer = tiny_tokenizer(request.param, LIMIT)
    predictor = with_tokenizer(bundle, tmp_path_factory.mktemp(request.param) / "onnx", tokenizer)
    return predictor, PIPELINE("token-classification", model=models["names"].get_base_model(), tokenizer=tokenizer)


def assert_entities(found: runtime.Prediction, wanted: Sequence[dict[str, Any]], what: object) -> None:
    rows = [{**row, "score": pytest.approx(float(row["score"]), abs=1e-5)} for row in wanted]
    assert list(found.to_dict()["entities"]) == rows, what


def compare(predictor: runtime.Predictor, pipeline: Any, texts: Sequence[Any], **options: Any) -> int:
    """Compare the entities of all strategies, and return their number; the pipeline runs its model once for all of them."""
    wanted = []
    for text in texts:
        given, _, _ = pipeline._sanitize_parameters(**options)
        wanted.append([pipeline.forward(inputs) for inputs in pipeline.preprocess(text, **given)])
    count = 0
    for strategy in STRATEGIES:
        cut = "stride" not in options
        found = predictor.predict(texts, ["names"], truncate=cut, aggregate=strategy, **options)["names"]
        for text, row, outputs in zip(texts, found, wanted, strict=True):
            _, _, settings = pipeline._sanitize_parameters(aggregation_strategy=strategy)
            # A copy, because the offsets of words are changed in place
            assert_entities(row, pipeline.postprocess(copy.deepcopy(outputs), **settings), (strategy, options, text))
            count += len(row.entities or ())
    return count


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_entities_and_words(both: tuple[runtime.Predictor, Any]) -> None:
    assert compare(*both, TEXTS) > 300
    words = [text.split(" ") for text in random_texts(8, 2)]
    assert compare(*both, words, is_split_into_words=True) > 100
    compare(*both, words, is_split_into_words=True, stride=5)
    predictor, pipeline = both
    (row,) = predictor.predict(TEXTS[3:4], ["names"], truncate=True, aggregate="first")["names"]
    assert_entities(row, pipeline(TEXTS[3], aggregation_strategy="first"), "as users call it")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_windows(both: tuple[runtime.Predictor, Any], side: str, bundle: Path, tmp_path: Path) -> None:
    _, pipeline = both
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=pipeline.tokenizer.backend_tokenizer, **{**pipeline.tokenizer.init_kwargs, "truncation_side": side}
    )
    predictor = with_tokenizer(bundle, tmp_path / "onnx", tokenizer)
    pipeline = PIPELINE("token-classification", model=pipeline.model, tokenizer=tokenizer)
    texts = ["Angela", *random_texts(3, 1, longest=40)]
    for stride in (0, 1, 13):
        assert compare(predictor, pipeline, texts, stride=stride) > 50


def test_labels(models: dict[str, Any], bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    texts = [text for text in TEXTS if len(predictor._encoder.encode([text], truncate=True)[0]) < LIMIT]  # type: ignore[union-attr]
    for task in ("topic", "flags"):
        pipeline = PIPELINE(
            "text-classification", model=models[task].get_base_model(), tokenizer=tiny_tokenizer("wordpiece", LIMIT)
        )
        for top_k in (1, 3, 9):
            found = predictor.predict(texts, [task], top_k=top_k)[task]
            for text, row in zip(texts, found, strict=True):
                wanted = pipeline(text, top_k=top_k)
                assert list(row.scores) == [label["label"] for label in wanted]
                assert list(row.scores.values()) == pytest.approx([label["score"] for label in wanted], abs=1e-5)
    scores = predictor.predict(texts, ["flags"])["flags"]
    for threshold in (0, 0.3, 0.7, 1):
        for row, all_of in zip(predictor.predict(texts, ["flags"], threshold=threshold)["flags"], scores, strict=True):
            assert row.labels == tuple(label for label, score in all_of.scores.items() if score >= threshold)
            assert row.scores == all_of.scores
