"""Folders of sentence-transformers with a PEFT adapter, in the layouts of its versions 2 to 6."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_NEW = "sentence_transformers.sentence_transformer.modules."
_BASE = "sentence_transformers.base.modules."
TANH = "torch.nn.modules.activation.Tanh"


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def modules(folder: Path, *kinds: tuple[str, str]) -> None:
    """Write modules.json: type and path of each module."""
    write(
        folder / "modules.json",
        [{"idx": number, "name": str(number), "type": kind, "path": path} for number, (kind, path) in enumerate(kinds)],
    )


def new_layout(folder: Path, size: int, pooling: Any, limit: int, prompts: Mapping[str, str], default: str | None) -> Path:
    """Write the files of version 6 next to an adapter: Transformer, Pooling, Normalize."""
    modules(
        folder,
        (f"{_BASE}transformer.Transformer", ""),
        (f"{_NEW}pooling.Pooling", "1_Pooling"),
        (f"{_BASE}normalize.Normalize", "2_Normalize"),
        (f"{_NEW}dropout.Dropout", "3_Dropout"),
    )
    write(folder / "1_Pooling/config.json", {"embedding_dimension": size, "pooling_mode": pooling, "include_prompt": True})
    names = ("module_input_name", "module_output_name")
    write(folder / "2_Normalize/config.json", dict.fromkeys(names, "sentence_embedding"))
    write(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    write(folder / "tokenizer_config.json", {"model_max_length": limit})
    write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": default})
    return folder


def old_layout(folder: Path, size: int, width: int, limit: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Write the files of older versions: Transformer in 0_Transformer, Pooling of cls and mean, Dense; return its weights."""
    old = "sentence_transformers.models."
    modules(folder, (f"{old}Transformer", "0_Transformer"), (f"{old}Pooling", "1_Pooling"), (f"{old}Dense.Dense", "2_Dense"))
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": size, **flags})
    write(
        folder / "2_Dense/config.json",
        {"in_features": 2 * size, "out_features": width, "bias": True, "activation_function": TANH},
    )
    write(folder / "0_Transformer/sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    generator = np.random.default_rng(width)
    weight, bias = (generator.normal(0, 0.3, shape).astype(np.float32) for shape in ((width, 2 * size), (width,)))
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense/model.safetensors")
    return weight, bias
