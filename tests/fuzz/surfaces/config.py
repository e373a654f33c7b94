"""Model folders with changed configurations and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from exporter import export
from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.mutate import Known, below, random_edits
from tests.fuzz.seeds import MODELS
from tests.fuzz.surfaces.exporting import export_as_far
from tests.fuzz.surfaces.printed import Printed

_SIZES = [0, 1, 3, 16, 17, -1, 10**6, 10**9, 10**12, 2**63, 1.5, "16", None, [16], True]
_SWITCHES = [True, False, None, "yes", 1]
_FILES = ["../../outside/secret.txt", "/dev/zero", "model.safetensors", "missing.safetensors"]
_SIZE_KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings"),
    *(
        "type_vocab_size",
        "num_labels",
        "dim",
        "n_layers",
        "n_heads",
        "hidden_dim",
        "n_embd",
        "n_layer",
        "n_head",
        "n_positions",
    ),
    *("n_inner", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "image_size", "patch_size"),
    *("num_channels", "pad_token_id", "head_dim", "num_key_value_heads", "chunk_size_feed_forward", "reduction_factor", "r"),
)
_KNOWN = Known(
    files={"config.json": 20, "model.safetensors": 3, "generation_config.json": 1},
    keys={
        **dict.fromkeys(_SIZE_KEYS, _SIZES),
        **dict.fromkeys(("tie_word_embeddings", "is_decoder", "add_cross_attention", "torchscript", "use_cache"), _SWITCHES),
        **dict.fromkeys(
            ("output_attentions", "output_hidden_states", "return_dict", "is_encoder_decoder", "use_bfloat16"), _SWITCHES
        ),
        "model_type": [*CONFIG_MAPPING_NAMES, "missing", "", "../x"],
        "architectures": [
            ["BertModel"],
            ["BertForMaskedLM"],
            ["BertAdapterModel"],
            ["os"],
            [],
            ["missing"],
            [None],
            "BertModel",
        ],
        "hidden_act": ["gelu", "relu", "silu", "missing", "__class__", "../x"],
        "position_embedding_type": ["relative_key", "relative_key_query", "absolute", "x"],
        "auto_map": [{"AutoConfig": "code.Config", "AutoModel": "code.Model"}, {"AutoModel": "../x.y"}, "x"],
        "quantization_config": [{"quant_method": "gptq"}, {"load_in_8bit": True}, {}, "x"],
        "_attn_implementation": ["eager", "flash_attention_2", "org/kernel", "flex_attention", 3],
        "attn_implementation": ["eager", "sdpa", "org/kernel"],
        "torch_dtype": ["float16", "bfloat16", "float64", "int8", "float8_e4m3fn", "x", "auto", 3],
        "dtype": ["float16", "bfloat16", "complex64", "x", None],
        "transformers_weights": _FILES,
        "_name_or_path": [*_FILES, "org/name", ""],
        "id2label": [{"0": "a", "1": "b"}, {"0": "a"}, {"x": "a"}, {}, {"0": None}, [], {"0": "a", "1": "a"}],
        "label2id": [{"a": 0, "b": 1}, {"a": 0}, {"a": "x"}, {"a": -1}, []],
        "problem_type": ["regression", "single_label_classification", "multi_label_classification", "x", 3],
        "rope_scaling": [{"type": "linear", "factor": 0}, {"rope_type": "x"}, "x"],
        "pruned_heads": [{"0": [0]}, {"0": [0, 1]}, {"9": [9]}, "x"],
        "layer_norm_eps": [0, -1, 1e-30, 1e400, "x", None],
        "initializer_range": [0, -1, 1e30, "x"],
        "adapters": [{}, None, {"adapters": {}}, {"adapters": {"a": "seq_bn"}}, {"adapters": {"a": "../x"}, "config_map": {}}],
        "prediction_heads": [{}, None, {"a": {}}, {"a": {"head_type": "classification", "num_labels": 10**9}}],
        "head_type": ["classification", "tagging", "masked_lm", "seq2seq_lm", "x", None, "dependency_parsing"],
        "activation_function": ["tanh", "x", None, "gelu"],
        "layers": _SIZES,
        "reduction": _SIZES,
        "non_linearity": ["relu", "x", "swish", None],
        "architecture": ["lora", "union", "reft", "prefix_tuning", "x", None],
        "sub_configs": [{}, "x"],
        "text_config": [{}, {"model_type": "bert"}, "x"],
    },
    names=(
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "adapter_interface.json",
        "preprocessor_config.json",
        "code.py",
    ),
)


def generate(random: Random, seeds: Path) -> Case:
    """Change a model folder; a few are exported completely."""
    seed = random.choice(MODELS)
    edits = below("model", random_edits(random, seeds / seed / "model", _KNOWN))
    call: dict[str, object] = {"complete": True} if random.random() < 0.01 else {}
    if random.random() < 0.3:
        call["drop"] = random.choice([0, 1, 2, 3])
    return Case("config", seed, edits, call)


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Export the model, mostly until it would be traced."""
    drop = case.call.get("drop", 0)
    return export_as_far(
        lambda: export(box.given / "model", False, drop=drop, output=box.output), box, bool(case.call.get("complete"))
    )
