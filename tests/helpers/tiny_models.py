"""Tiny random adapter models that are quick to export, and the reference they are compared with.

Tests of PEFT import this file where the adapters library is not installed: it is imported inside functions.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, PretrainedConfig

from exporter.example import base_model_folder
from tests.helpers.small_vocabulary import tokenizer_files

LAYERS, MAX_LENGTH = 2, 48


def bert_config(vocab_size: int = 101, layers: int = LAYERS) -> PretrainedConfig:
    return BertConfig(
        num_hidden_layers=layers,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=vocab_size,
        max_position_embeddings=MAX_LENGTH,
    )


def mpnet_interface() -> Any:
    """MPNet has no class in the adapters library."""
    from training.quality.mpnet import INTERFACE

    return dataclasses.replace(INTERFACE, adapter_methods=["bottleneck", "lora", "reft", "invertible"])


def add_task(model: Any, name: str, config: Any, head: str) -> None:
    """`head`: "tag", "multi", "reg", "pooler", or a number of labels."""
    model.add_adapter(name, config=config)
    if head == "tag":
        model.add_tagging_head(name, num_labels=4)
    elif head == "multi":
        model.add_classification_head(name, num_labels=5, multilabel=True)
    elif head == "reg":
        model.add_classification_head(name, num_labels=1, layers=1)
    elif head == "pooler":
        model.add_classification_head(name, num_labels=3, use_pooler=True)
    else:
        model.add_classification_head(name, num_labels=int(head), layers=1)


def tiny_model(tasks: Mapping[str, tuple[Any, str]], config: PretrainedConfig | None = None, seed: int = 0) -> Any:
    """A model with the given tasks: name -> (adapter configuration, head). Adapters are far from the identity."""
    import adapters

    torch.manual_seed(seed)
    model = adapters.AutoAdapterModel.from_config(copy.deepcopy(config or bert_config()))
    for name, (adapter, head) in tasks.items():
        add_task(model, name, adapter, head)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # B of LoRA is zero at its start.
            if "adapter" in name or "lora_B" in name or parameter.dim() == 1:
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.normal_(centre, 0.1)
    return model


def tokenizer() -> Any:
    """The tokenizer of the bundled example's base model with `VOCABULARY` of its entries."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in tokenizer_files().items():
            (Path(folder) / name).write_bytes(content)
        return AutoTokenizer.from_pretrained(folder)


def base_tokenizer() -> Any:
    """The tokenizer of the bundled example's base model; its vocabulary has 30,522 entries."""
    return AutoTokenizer.from_pretrained(base_model_folder())


def inputs(shape: tuple[int, int], vocab_size: int = 101, seed: int = 5, segments: bool = True) -> dict[str, np.ndarray]:
    """Random int64 inputs with random holes in the mask; the first token of a row is always there."""
    generator = np.random.default_rng((seed, *shape))
    mask = (generator.random(shape) < 0.7).astype(np.int64)
    mask[:, 0] = 1
    values = {"input_ids": generator.integers(0, vocab_size, shape), "attention_mask": mask}
    if segments:
        values["token_type_ids"] = generator.integers(0, 2, shape)
    return values


def reference(model: Any, setup: Any, feeds: Mapping[str, np.ndarray], drop: int = 0, head: str | None = None) -> np.ndarray:
    """Single-task eager PyTorch by the library's own means, without anything of the exporter.

    `setup`: an adapter, whose head is of its name, or a composition with the head given.
    """
    model.eval()
    model.set_active_adapters(setup, skip_layers=list(range(drop)))
    model.active_head = head or setup
    with torch.no_grad():
        logits: np.ndarray = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
    return logits


def lowest_layers(config: Any, drop: int) -> list[str]:
    """Parts of the names of modules in the lowest layers; those of a decoder follow those of its encoder."""
    if not getattr(config, "is_encoder_decoder", False):
        return [f"{part}.{number}." for number in range(drop) for part in (".layer", ".layers", ".h")]
    layers = [f"encoder.{{}}.{number}" for number in range(config.num_hidden_layers)]
    layers += [f"decoder.{{}}.{number}" for number in range(drop)]
    return [f".{layer.format(part)}." for layer in layers[:drop] for part in ("layers", "block")]


def run_graph(folder: Path, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Plain ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()] if outputs is None else list(outputs)
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_parity(found: np.ndarray, expected: np.ndarray) -> None:
    """The contract's fp32 tolerance, a hundred times tighter: tiny models leave no room for more."""
    assert found.shape == expected.shape
    assert float(np.abs(found - expected).max()) <= 1e-6 * max(1.0, float(np.abs(expected).max()))
