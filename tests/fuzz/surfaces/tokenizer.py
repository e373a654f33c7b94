"""Tokenizer files: of bundles, as the runtime loads them, and of models, as the exporter does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import runtime
from exporter import export
from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.mutate import Known, below, random_edits
from tests.fuzz.seeds import MODELS, TOKENIZERS
from tests.fuzz.surfaces.exporting import export_as_far
from tests.fuzz.surfaces.printed import Printed
from tests.fuzz.values import build, some_text

_PARTS = [
    *(
        {"type": kind}
        for kind in ("BPE", "WordPiece", "WordLevel", "Unigram", "Sequence", "ByteLevel", "Metaspace", "BertNormalizer")
    ),
    *(
        {"type": kind}
        for kind in ("NFKC", "Lowercase", "Strip", "Fuse", "ByteFallback", "CTC", "BertPreTokenizer", "Digits", "Punctuation")
    ),
    *(
        {"type": "Replace", "pattern": {kind: text}, "content": "x"}
        for kind, text in (("Regex", "(a*)*b"), ("Regex", "("), ("String", ""))
    ),
    *(
        {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}
        for text in ("", "(?=a)", "(x+x+)+y", "\\p{L}")
    ),
    # slow patterns, texts that grow and long texts
    *(
        {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}
        for text in ("\\s+$", ".*a.*b", "(?:a{1,50}){1,50}b", "(a|a)*$", "(?=(.*)x)", "[^a]*[^b]*[^c]*d", "(?<=a+)b")
    ),
    *(
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * n}
        for n in (9, 40)
    ),
    *({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True}] * n} for n in (3, 30)),
    *({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": ""}, "content": "ab"}] * n} for n in (2, 30)),
    *({"type": "Prepend", "prepend": "a" * n} for n in (900, 10**6)),
    {"type": "Precompiled", "precompiled_charsmap": "AAAAAGFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWEA"},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "FixedLength", "length": 0},
    {"type": "Prepend", "prepend": ""},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": True},
    {"type": "BertProcessing", "sep": ["[SEP]", 10**9], "cls": ["[CLS]", 2**32 - 1]},
    None,
]
_TOKENS = ["[PAD]", "[MASK]", "missing", "", {"content": "[PAD]"}, {"__type": "AddedToken", "content": "x"}, None, 3]
_KNOWN = Known(
    files={
        "tokenizer.json": 10,
        "tokenizer_config.json": 5,
        "special_tokens_map.json": 3,
        "config.json": 1,
        "added_tokens.json": 1,
    },
    keys={
        **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder", "model"), _PARTS),
        **dict.fromkeys(("pad_token", "mask_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token"), _TOKENS),
        "model_max_length": [0, 1, -1, 24, 10**30, 1e30, "24", None, True],
        "padding_side": ["left", "right", "up", None, 1],
        "truncation_side": ["left", "right", 3],
        "padding": [
            None,
            {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        ],
        "truncation": [None, {"max_length": 0, "strategy": "LongestFirst", "stride": 9, "direction": "Right"}],
        "tokenizer_class": [
            "BertTokenizer",
            "T5Tokenizer",
            "GPT2TokenizerFast",
            "Missing",
            "../x",
            "LlamaTokenizer",
            "ByT5Tokenizer",
        ],
        "auto_map": [{"AutoTokenizer": ["code.Tokenizer", None]}, "code.Tokenizer"],
        "chat_template": [
            "{{ x",
            [{"name": "../../outside/x", "template": "x"}],
            {"default": "x"},
            "{% for x in range(10**9) %}",
        ],
        "vocab_file": ["../../outside/secret.txt", "/dev/zero", "vocab.txt"],
        "additional_special_tokens": [["x"], [""], ["[PAD]"] * 3, "x", [None]],
        "added_tokens_decoder": [{"0": {"content": "x"}}, {"-1": {"content": "x"}}, {"x": {}}, {str(10**12): {"content": "y"}}],
        "pad_token_id": [0, -1, 10**9, None, "0", 1.5],
        "id": [0, 2**31, 2**32, -1],
        "max_input_chars_per_word": [0, 1, 400, 2**63],
        "continuing_subword_prefix": ["", "#" * 30, "#" * 10**5],
        "dropout": [0.0, 1.0, 2.0, -1],
        "byte_fallback": [True],
        "unk_id": [0, 10**6, None],
        "vocab": [{}, {"a": 0, "b": 0}, {"[UNK]": 2**32 - 1}, [], [["a", 0.0]]],
        "merges": [[], ["a b"], [["a", "b"]], ["a"], ["a b c"]],
    },
    names=(
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "tokenizer.model",
        "added_tokens.json",
        "chat_template.jinja",
    ),
)


def generate(random: Random, seeds: Path) -> Case:
    """Change the tokenizer of a bundle, or, one time in five, that of a model."""
    if random.random() < 0.2:
        seed = random.choice([name for name in MODELS if name != "vit"])
        edits = below("model", random_edits(random, seeds / seed / "model", _KNOWN))
        return Case("tokenizer", seed, edits)
    seed = random.choice(TOKENIZERS)
    edits = (*random_edits(random, seeds / seed, _KNOWN), {"op": "hash", "file": "adapterdrop.json"})
    texts = ["the film", "", ["a", "b"], some_text(random)]
    return Case("tokenizer", seed, edits, {"texts": texts, "truncate": random.random() < 0.7})


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Load the bundle and predict, or export the model until it would be traced."""
    if "texts" not in case.call:
        return export_as_far(lambda: export(box.given / "model", output=box.output), box, complete=False)
    predictor = runtime.load(box.given, provider="cpu", threads=1)
    predictor.predict(build(case.call["texts"]), truncate=bool(case.call.get("truncate")))
    return "predicted"
