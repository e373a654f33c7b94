"""The folders that cases start from: small bundles, models, tokenizers and adapters, all valid."""

# ruff: noqa: S106  # tokens of tokenizers
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from adapters import CompacterConfig
from adapters.composition import Fuse
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    GPT2Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from exporter import export
from tests.helpers import runtime_bundles
from tests.helpers.small_vocabulary import tokenizer_files
from tests.helpers.tiny_models import tiny_model

TOKENIZERS = ("wordpiece", "wordlevel", "bpe", "unigram")
BUNDLES = ("text", "routed", "heads", "decoder", "vision")
MODELS = ("bert", "roberta", "distilbert", "gpt2", "t5", "vit")
ADAPTERS = ("seq_bn", "second", "lora", "prefix_tuning", "loreft", "unipelt", "compacter")
_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "aeiou"),
    "the",
    "film",
]
_TEXTS = ("a fast film", "the slow film", "a film", "the end")


def write_all(folder: Path) -> None:
    """Write every seed."""
    torch.set_num_threads(1)
    for name in BUNDLES:
        write: Callable[[Path], Path] = getattr(runtime_bundles, "write_bundle" if name == "text" else f"write_{name}")
        write(folder / name)
        if name != "vision":
            _replace_tokenizer(folder / name, "wordpiece")
    for name in TOKENIZERS:
        shutil.copytree(folder / "text", folder / name)
        _replace_tokenizer(folder / name, name)
    for name in MODELS:
        _write_model(folder / name / "model", name)
    _write_adapters(folder / "adapterhub")
    _write_peft(folder / "peft")
    _write_sources(folder / "sources", folder)


def _replace_tokenizer(bundle: Path, kind: str) -> None:
    for name in tokenizer_files():
        (bundle / name).unlink(missing_ok=True)
    _tokenizer(kind).save_pretrained(bundle)
    (bundle / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}))
    runtime_bundles.rewrite(bundle)


def _tokenizer(kind: str) -> Any:
    """A small tokenizer with the parts that are usual for its kind."""
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    if kind == "wordpiece":
        found = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        found.normalizer = normalizers.BertNormalizer()
        found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        found.decoder = decoders.WordPiece()
    elif kind == "wordlevel":
        found = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        found.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace("x", "a")])
        found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits()])
    elif kind == "bpe":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {word: number for number, word in enumerate([*_WORDS[:5], *letters, "th", "the"])}
        found = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")], unk_token="[UNK]"))
        found.pre_tokenizer = pre_tokenizers.ByteLevel()
        found.decoder = decoders.ByteLevel()
    else:
        found = Tokenizer(models.Unigram([(word, -float(number)) for number, word in enumerate(_WORDS)], unk_id=1))
        found.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        found.decoder = decoders.Metaspace()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    found.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, [("[CLS]", 2), ("[SEP]", 3)])
    names = ("pad", "unk", "cls", "sep", "mask")
    special: dict[str, Any] = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=20, **special)


def _config(kind: str) -> PretrainedConfig:
    shared = {"vocab_size": 300, "num_labels": 2}
    usual = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 24,
    }
    if kind == "bert":
        return BertConfig(**usual, **shared)
    if kind == "roberta":
        return RobertaConfig(**usual, **shared)
    if kind == "distilbert":
        return DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=24, **shared)
    if kind == "gpt2":
        return GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=24, pad_token_id=0, **shared)
    if kind == "t5":
        return T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, **shared)
    return ViTConfig(image_size=8, patch_size=4, **{key: usual[key] for key in list(usual)[:4]})


def _write_model(folder: Path, kind: str) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("lora", "2")} if kind != "vit" else {}, _config(kind))
    if kind == "vit":
        for name in ("a", "b"):
            model.add_adapter(name, config="seq_bn")
            model.add_image_classification_head(name, num_labels=2)
    model.save_pretrained(folder)
    if kind != "vit":
        _tokenizer("bpe" if kind in ("roberta", "gpt2") else "wordpiece").save_pretrained(folder)


def _write_adapters(folder: Path) -> None:
    special: dict[str, Any] = {"second": "seq_bn", "compacter": CompacterConfig(reduction_factor=4, phm_dim=2)}
    model = tiny_model({name: (special.get(name, name), "2") for name in ADAPTERS}, _config("bert"))
    model.add_adapter_fusion(Fuse("seq_bn", "second"))
    model.add_classification_head("seq_bn,second", num_labels=2)
    (folder / "adapters").mkdir(parents=True)
    for name in ADAPTERS:
        model.save_adapter(str(folder / "adapters" / name), name)
    model.save_adapter_fusion(str(folder / "fusion"), Fuse("seq_bn", "second"), with_head="seq_bn,second")
    trunk = BertModel(_config("bert"))
    trunk.load_state_dict({key: model.bert.state_dict()[key] for key in trunk.state_dict()})
    trunk.save_pretrained(folder / "model")


def _write_peft(folder: Path) -> None:
    base = BertForSequenceClassification(_config("bert"))
    base.save_pretrained(folder / "model")
    usual: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    settings: dict[str, Any] = {
        "lora": peft.LoraConfig(r=2, rank_pattern={"query": 1}, **usual),
        "dora": peft.LoraConfig(r=2, use_dora=True, **usual),
        "ia3": peft.IA3Config(
            task_type="SEQ_CLS", target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]
        ),
        "vera": peft.VeraConfig(r=2, **usual),
    }
    for name, config in settings.items():
        model = BertForSequenceClassification.from_pretrained(folder / "model")
        peft.get_peft_model(model, config).save_pretrained(folder / "adapters" / name)


def _write_sources(folder: Path, seeds: Path) -> None:
    """Write what command lines name: a model, adapters, texts and an exported folder that can be extended."""
    shutil.copytree(seeds / "bert" / "model", folder / "model")
    shutil.copytree(seeds / "adapterhub", folder / "adapterhub")
    shutil.copytree(seeds / "peft", folder / "peft")
    rows = [json.dumps({"text": text, "label": number % 2}) for number, text in enumerate(_TEXTS)]
    (folder / "texts.txt").write_text("\n".join(_TEXTS))
    (folder / "texts.jsonl").write_text("\n".join(rows))
    (folder / "texts.csv").write_text("text,label\n" + "\n".join(f"{text},0" for text in _TEXTS))
    (folder / "texts.tsv").write_text("text\tlabel\n" + "\n".join(f"{text}\t1" for text in _TEXTS))
    (folder / "scores.json").write_text(json.dumps({"seq_bn,second": {"0": {"seq_bn": 0.7, "second": 0.3}}}))
    export(folder / "model", output=folder / "onnx", tasks=["a"], extendable=True, routed=True)
