"""The inputs of texts, and the longest one: the smaller one of the model's positions and the tokenizer's limit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    MptConfig,
    MptModel,
    T5Config,
    XLNetConfig,
    XLNetModel,
    YosoConfig,
    YosoModel,
)

import runtime
from exporter import ExportError, export
from exporter.models.inputs import max_lengths, model_inputs
from runtime.bundle import InputEntry, read_manifest
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import MAX_LENGTH, bert_config, tiny_model, tokenizer

TEXT = (InputEntry("input_ids", "int64", ("batch", "sequence"), 9), InputEntry("word_starts", "int64", ("batch", "words"), 0))
BOTH = (*TEXT, InputEntry("decoder_input_ids", "int64", ("batch", "decoder_sequence"), 9))


class _Tokenizer:
    def __init__(self, limit: Any) -> None:
        self.model_max_length = limit


class _Unlimited:
    """A model without absolute positions."""

    config = T5Config()

    def named_modules(self) -> list[Any]:
        return []


BERT = BertModel(
    BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=9, max_position_embeddings=48)
)


@pytest.mark.parametrize("limit", [None, 10**30, float(10**30), int(1e12), 0, -1, True, "48", 512, 49])
def test_numbers_that_limit_nothing(limit: Any) -> None:
    assert max_lengths(BERT, _Tokenizer(limit), TEXT) == {"sequence": 48, "words": 48}
    if not isinstance(limit, int | float) or not 1 < limit < 1000:
        assert max_lengths(_Unlimited(), _Tokenizer(limit), TEXT) == {}


def test_rows_of_the_table_that_no_position_has() -> None:
    """YOSO counts positions from 2, and has two rows more than positions."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9}
    model = YosoModel(YosoConfig(**sizes, max_position_embeddings=40))
    assert max_lengths(model, None, TEXT) == {"sequence": 40, "words": 40}


def test_the_limit_of_mpt() -> None:
    config = MptConfig(d_model=8, n_heads=2, n_layers=1, vocab_size=9, max_seq_len=40)
    assert max_lengths(MptModel(config), None, TEXT) == {"sequence": 40, "words": 40}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (BERT, 2),
        (GPT2Model(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9)), 9),
        (XLNetModel(XLNetConfig(d_model=8, n_head=2, n_layer=1, d_inner=8, vocab_size=9)), 9),
        (MptModel(MptConfig(d_model=8, n_heads=2, n_layers=1, vocab_size=9)), None),
    ],
)
def test_token_types_are_inputs_if_the_tokenizer_gives_them(model: Any, expected: int | None) -> None:
    """Pipelines and trainers of transformers pass on what the tokenizer gives: GPT-2 adds embeddings, XLNet compares them."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    found = {each.name: each.limit for each in model_inputs(model, SimpleNamespace(model_input_names=names), ())}
    assert found.get("token_type_ids") == expected
    assert "token_type_ids" not in {each.name for each in model_inputs(model, SimpleNamespace(model_input_names=names[:1]), ())}


@pytest.mark.adapters
def test_a_prefix_takes_tokens_from_a_mask_that_is_a_table() -> None:
    adapters = pytest.importorskip("adapters")
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 9, "n_positions": 40}
    for config, limit in (
        (GPT2Config(**sizes), 37),
        (BertConfig(**{**BERT.config.to_dict(), "max_position_embeddings": 40}), 40),
    ):
        model = adapters.AutoAdapterModel.from_config(config)
        for name, length in (("a", 3), ("b", 2)):
            model.add_adapter(name, config=adapters.PrefixTuningConfig(flat=True, prefix_length=length))
        assert max_lengths(model, None, TEXT)["sequence"] == limit


@pytest.mark.parametrize("limit", [24, 24.0, 2])
def test_the_smaller_limit_counts(limit: Any) -> None:
    assert max_lengths(BERT, _Tokenizer(limit), TEXT) == {"sequence": limit, "words": limit}
    assert max_lengths(BERT, _Tokenizer(limit), BOTH) == {"sequence": limit, "words": limit, "decoder_sequence": 48}
    assert max_lengths(_Unlimited(), _Tokenizer(limit), BOTH) == {"sequence": limit, "words": limit}
    assert max_lengths(BERT, None, TEXT) == {"sequence": 48, "words": 48}


def test_a_tokenizer_for_one_token_is_refused() -> None:
    with pytest.raises(ExportError, match=r"_Tokenizer takes at most one token \(model_max_length\)"):
        max_lengths(BERT, _Tokenizer(1), TEXT)


def test_the_runtime_cuts_where_the_tokenizer_does(tmp_path: Path) -> None:
    assert MAX_LENGTH > 24
    given = tokenizer()
    given.model_max_length = 24
    export(tiny_model({"a": ("seq_bn", "tag")}, bert_config(VOCABULARY)), tokenizer=given, output=tmp_path / "onnx")
    assert read_manifest(tmp_path / "onnx").max_lengths == {"sequence": 24}
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    text = "word " * 30
    with pytest.raises(runtime.InputError, match="at most 24 tokens"):
        predictor.predict([text])
    (found,) = predictor.predict([text], truncate=True)["a"]
    assert len(found.words) == len(given(text, truncation=True).input_ids) - 2 == 22
