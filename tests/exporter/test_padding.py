"""Padding and masks: the side of the bundle's tokenizer, and rows that no tokenizer makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForTokenClassification

import runtime
from exporter import export
from exporter.models.inputs import model_inputs
from exporter.plan import Plan
from exporter.verify.random_inputs import make_inputs
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import LAYERS, assert_parity, bert_config, inputs, reference, run_graph, tiny_model, tokenizer
from tests.helpers.tiny_peft import tuned_model

TASKS = {"a": ("seq_bn", "tag"), "b": ("lora", "2")}


@pytest.mark.adapters
@pytest.mark.parametrize("opset", [20, *swept(24)])
def test_rows_without_tokens_are_those_of_pytorch(tmp_path: Path, opset: int) -> None:
    model = tiny_model(TASKS)
    export(model, drop=1, output=tmp_path / "onnx", opset=opset)
    feeds = inputs((4, 9))
    feeds["attention_mask"][1], feeds["attention_mask"][2] = 0, np.arange(9) > 4
    found = run_graph(tmp_path / "onnx", feeds)
    for name in TASKS:
        assert_parity(found[name], reference(model, name, feeds, drop=1))


@pytest.mark.adapters
def test_rows_without_tokens_do_not_stop_fp16(tmp_path: Path) -> None:
    """Scores as large as those of a trained model, which the mask of fp16 does not hide in a row without any token."""
    model = tiny_model({"a": ("seq_bn", "3"), "b": ("lora", "2")})
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            for linear in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                linear.weight.mul_(20)
    export(model, drop=1, routed=True, precision="fp16", target="cuda", output=tmp_path / "onnx")
    feeds = inputs((3, 9))
    found = run_graph(tmp_path / "onnx", feeds)
    for name in ("a", "b"):
        np.testing.assert_allclose(found[name], reference(model, name, feeds, drop=1), atol=2e-2)


@pytest.mark.adapters
def test_verification_tries_every_kind_of_mask() -> None:
    plan = Plan((), 1, model_inputs(tiny_model({}), None, ()), {"sequence": 48}, 0, None, 20, "fp32", "portable", 1e-4)
    masks = make_inputs(plan, 5, 8, masks="all")["attention_mask"]
    assert masks[0].all()
    assert masks[1, 0] == 1
    assert masks[2, -1] == 1
    assert masks[3].tolist() == [0, 1, 0, 0, 1, 0, 0, 1]
    assert not masks[4].any()
    assert make_inputs(plan, 5, 8)["attention_mask"].any(1).all()
    assert make_inputs(plan, 5, 8, masks="none")["attention_mask"].all()
    # Padded rows are padded, and at a single token are not empty.
    assert all((~mask[1:].all(1)).all() for n in range(2, 12) for mask in [make_inputs(plan, 3, n)["attention_mask"] == 1])
    assert make_inputs(plan, 3, 1)["attention_mask"].all()


@pytest.mark.adapters
def test_texts_are_not_padded_where_padding_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A gate reads the mean over all tokens, those of the padding included."""
    config = pytest.importorskip("adapters").LoRAConfig(r=4, use_gating=True)
    model = tiny_model({"a": (config, "3"), "b": ("seq_bn", "2")}, bert_config(VOCABULARY))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name or "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    export(model, tokenizer=tokenizer(), drop=1, routed=True, split=True, output=tmp_path / "onnx")
    assert "task(s) 'a' depend on padding on either side: predict() puts only texts of one length into a batch" in caplog.text
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    cached = runtime.load(tmp_path / "onnx", provider="cpu", threads=1, state_cache=10**6)
    assert predictor.manifest.padding_counts
    texts = ["a short text", "", "a text that is longer than the first", "a brief word", "one"]
    alone = [predictor.predict([text], ["a"])["a"][0] for text in texts]
    together = [predictor.predict(texts, ["a"]), predictor.predict(texts, batch_size=len(texts))]
    together += [cached.predict(texts) for _ in range(2)]
    for found in (each["a"] for each in together):
        assert all(row.scores == pytest.approx(one.scores, abs=1e-5) for row, one in zip(found, alone, strict=True))
    for row, one in zip(predictor.predict_routed(texts, ["a"] * len(texts)), alone, strict=True):
        assert row["a"].scores == pytest.approx(one.scores, abs=1e-5)


@pytest.mark.adapters
@pytest.mark.sweep
def test_the_lowest_drop_shows_what_padding_changes(tmp_path: Path) -> None:
    """At the highest one, no gate is left."""
    config = pytest.importorskip("adapters").LoRAConfig(r=4, use_gating=True)
    model = tiny_model({"a": (config, "3")}, bert_config(VOCABULARY))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name or "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    export(model, tokenizer=tokenizer(), drop=[LAYERS, 0], output=tmp_path / "onnx")
    assert runtime.load(tmp_path / "onnx", provider="cpu").manifest.padding_counts


@pytest.mark.adapters
def test_a_text_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    given = tokenizer()
    given.padding_side = given.truncation_side = "left"
    export(tiny_model(TASKS, bert_config(VOCABULARY)), tokenizer=given, output=tmp_path / "onnx")
    assert given.padding_side == "left"
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    texts = ["a short text", "a text that is much longer than the first one, and more so"]
    together = predictor.predict(texts)
    for name in TASKS:
        (alone,) = predictor.predict(texts[:1], [name])[name]
        assert [word.score for word in together[name][0].words] == pytest.approx([word.score for word in alone.words], abs=1e-5)
        assert together[name][0].scores == pytest.approx(alone.scores, abs=1e-5)
    # The side of truncation stays, although this tokenizer was not loaded with one
    (cut,) = predictor.predict(["first " * 60 + "last"], ["a"], truncate=True)["a"]
    assert cut.words[-1].text == "last"


def test_the_words_of_a_learned_prompt_are_those_of_the_text(tmp_path: Path) -> None:
    base = BertForTokenClassification(bert_config(VOCABULARY))
    model = tuned_model("PROMPT_TUNING", base, ("a", "b"), task_type="TOKEN_CLS")
    words = tokenizer()
    export(model, words, output=tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    texts = ["a short text", "a text that is much longer than the first one, and more so"]
    found = predictor.predict(texts)
    for name in ("a", "b"):
        model.set_adapter(name)
        for text, prediction in zip(texts, found[name], strict=True):
            encoded = words(text, return_tensors="pt")
            with torch.no_grad():
                scores = model.eval()(**encoded).logits[0, -encoded["input_ids"].shape[1] :].softmax(-1).amax(-1)
            starts = [encoded.word_to_tokens(0, number).start for number in range(len(prediction.words))]
            assert [word.score for word in prediction.words] == pytest.approx(scores[starts].tolist(), abs=1e-5)
