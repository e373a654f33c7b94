"""A row of docs/support.md, and tiny configurations by architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LAYERS, VOCABULARY, LONGEST = 2, 60, 32
_SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": LAYERS}
_TEXT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
_BART = {
    **{f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in (("layers", 1), ("attention_heads", 4))},
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LONGEST,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_IMAGE = {**_SMALL, "image_size": 12, "patch_size": 4}
_CLIP_TEXT = {**_TEXT, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _TEXT,
    "Roberta": _TEXT,
    "XLMRoberta": _TEXT,
    "Xmod": {**_TEXT, "languages": ["en_XX"], "default_language": "en_XX"},
    "Electra": {**_TEXT, "embedding_size": 16},
    "Albert": {**_TEXT, "embedding_size": 16, "num_hidden_groups": LAYERS},
    "DistilBert": {
        "dim": 32,
        "n_heads": 4,
        "hidden_dim": 48,
        "n_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LONGEST,
    },
    "Deberta": {**_TEXT, **_DEBERTA, "type_vocab_size": 2},
    "DebertaV2": {**_TEXT, **_DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "MPNet": _TEXT,
    "ModernBert": {
        **_TEXT,
        "pad_token_id": 0,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "reference_compile": False,
    },
    "Gemma3Text": {**_GROUPED, "head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "CLIPText": _CLIP_TEXT,
    "CLIPVision": {**_IMAGE, "projection_dim": 16},
    "ViT": _IMAGE,
    "Dinov2": _IMAGE,
    "Siglip": {"vision_config": _IMAGE},
    "SiglipVision": _IMAGE,
    "Whisper": {
        **{f"encoder_{what}": size for what, size in (("layers", LAYERS), ("attention_heads", 4), ("ffn_dim", 48))},
        "d_model": 32,
        "vocab_size": VOCABULARY,
        "num_mel_bins": 8,
        "max_source_positions": 10,
        "classifier_proj_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "Beit": {**_IMAGE, "use_relative_position_bias": True, "use_mean_pooling": True},
    "Bart": _BART,
    "MBart": _BART,
    "T5": _T5,
    "MT5": {**_T5, "tie_word_embeddings": False},
    "GPT2": {
        "n_embd": 32,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": LONGEST,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "Llama": _GROUPED,
    "Mistral": {**_GROUPED, "sliding_window": 6},
    "Qwen2": _GROUPED,
    "Qwen2, sliding windows": {**_GROUPED, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "Qwen3": {**_GROUPED, "head_dim": 8},
    # Longer texts than 16 tokens have other frequencies.
    "Qwen3, longrope": {
        **_GROUPED,
        "head_dim": 8,
        "original_max_position_embeddings": 16,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 2.5, 3.0, 3.5],
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "Qwen3, dynamic RoPE": {**_GROUPED, "head_dim": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
}


def class_of(architecture: str) -> str:
    """The start of the names of transformers' classes, without what is special in the configuration."""
    return architecture.partition(",")[0]


@dataclass(frozen=True)
class Row:
    """One line of the table: what is exported, and how the model for it is made.

    `build` returns the model; `tasks` is what `export` is asked for, None for all.
    """

    method: str
    composition: str
    head: str
    architecture: str
    build: Callable[[], Any]
    tasks: Mapping[str, Any] | None = None
    drop: int = 1

    @property
    def key(self) -> str:
        return " | ".join((self.method, self.composition, self.head, self.architecture))


def randomize(model: Any) -> None:
    """Far from the identity: a fresh adapter computes almost nothing, and a mistake in it would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A rotation is given by a matrix with a diagonal of -1 and 1: any other numbers would make it zero.
            if not name.endswith("weight.original"):
                centre = 1.0 if name.endswith(".m.weight") or ("norm" in name.lower() and name.endswith("weight")) else 0.0
                # Kronecker products and products of four matrices need larger factors.
                parameter.normal_(centre, 0.6 if any(part in name for part in ("phm_rule", "W_", "vera_")) else 0.15)
