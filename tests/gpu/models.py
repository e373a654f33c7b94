"""Models whose exports run on the device, the inputs, and single-task PyTorch on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import torch
from adapters.composition import Fuse
from transformers import BertConfig, ViTConfig

import runtime
from exporter import export
from tests.helpers.tiny_models import inputs, tiny_model

LENGTH, DROPS = 64, (1, 2)
# Lengths on both sides of the multiples that attention kernels need.
SHAPES = ((1, 1), (1, 8), (2, 5), (3, 16), (4, 33), (8, 32), (1, 64), (7, 13), (16, 64), (5, 48))
_LORA = adapters.LoRAConfig(r=8, alpha=16, attn_matrices=["q", "v"])


def bert() -> Any:
    return BertConfig(
        num_hidden_layers=3,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=512,
        vocab_size=101,
        max_position_embeddings=LENGTH,
    )


def _bottlenecks() -> Any:
    return tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "tag"), "c": ("double_seq_bn", "3")}, bert())


def _routable() -> Any:
    return tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "c": ("double_seq_bn", "reg")}, bert())


def _lora() -> Any:
    return tiny_model({"a": (_LORA, "2"), "b": (_LORA, "3")}, bert())


def _unequal() -> Any:
    """Ranks that zeros fill up, and equal adapters with heads of different kinds."""
    narrow = adapters.LoRAConfig(r=4, alpha=4, attn_matrices=["q"])
    tasks = {"a": (narrow, "2"), "b": (_LORA, "3"), "c": ("seq_bn", "2"), "d": ("seq_bn", "tag"), "e": ("seq_bn", "multi")}
    return tiny_model(tasks, bert())


def _fusion() -> Any:
    model = tiny_model(dict.fromkeys("abc", ("seq_bn", "2")), bert())
    model.add_adapter_fusion(Fuse("a", "b", "c"))
    model.add_classification_head("fused", num_labels=3)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fusion" in name or "heads.fused" in name:
                parameter.normal_(0, 0.1)
    return model


def _vit() -> Any:
    config = ViTConfig(
        num_hidden_layers=3, hidden_size=128, num_attention_heads=4, intermediate_size=256, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    model = adapters.AutoAdapterModel.from_config(config)
    for name, labels in (("a", 2), ("b", 3)):
        model.add_adapter(name, config="seq_bn")
        model.add_image_classification_head(name, num_labels=labels)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapter" in name or "heads" in name:
                parameter.normal_(0, 0.1)
    return model


@dataclass(frozen=True)
class Case:
    """A model to export.

    `setups`: task -> composition; None exports all heads. `drops`: the variants of one bundle.
    """

    build: Callable[[], Any]
    setups: Mapping[str, Any] | None = None
    drops: tuple[int, ...] = DROPS
    routed: bool = False


CASES = {
    "bottlenecks": Case(_bottlenecks),
    "routed": Case(_routable, routed=True),
    "lora": Case(_lora, routed=True),
    "unequal": Case(_unequal, drops=(1,)),
    "fusion": Case(_fusion, {"fused": Fuse("a", "b", "c"), "a": "a"}, drops=(0, 1)),
    "vit": Case(_vit, drops=(1,), routed=True),
}


def expected_logits(model: Any, setup: Any, head: str, feeds: Mapping[str, np.ndarray], drop: int, device: str) -> np.ndarray:
    """Logits of one task by the adapters library, in fp32 on the device that holds the model."""
    model.set_active_adapters(setup, skip_layers=list(range(drop)))
    model.active_head = head
    given = {name: torch.from_numpy(value).to(device) for name, value in feeds.items()}
    with torch.inference_mode():
        logits: np.ndarray = model(**given).logits.cpu().numpy()
    return logits


@dataclass(frozen=True)
class Exported:
    """A bundle, and the model on the device that it must agree with."""

    folder: Path
    model: Any
    case: Case
    device: str

    def feeds(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        if self.model.config.model_type == "vit":
            generator = np.random.default_rng(shape)
            return {"pixel_values": generator.standard_normal((shape[0], 3, 32, 32)).astype(np.float32)}
        return inputs(shape)

    def expected(self, task: str, feeds: Mapping[str, np.ndarray], drop: int) -> np.ndarray:
        """Single-task PyTorch in fp32, on the device, by the library's own means."""
        return expected_logits(self.model, (self.case.setups or {}).get(task, task), task, feeds, drop, self.device)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference relative to max(1, max |expected|)."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


def routed_rows(bundle: Exported, predictor: runtime.Predictor) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Random tasks for random rows, at every drop and shape: the logits, those of single-task PyTorch for all rows, the row."""
    generator = np.random.default_rng(0)
    for drop in predictor.drops:
        for shape in SHAPES:
            feeds = bundle.feeds(shape)
            rows = generator.integers(0, shape[0], 2 * shape[0] + 1).tolist()
            tasks = [predictor.tasks[number] for number in generator.integers(0, len(predictor.tasks), len(rows))]
            expected = {name: bundle.expected(name, feeds, drop) for name in predictor.tasks}
            for row, name, found in zip(rows, tasks, predictor.run_routed(feeds, tasks, rows, drop), strict=True):
                yield found, expected[name], row


def check_int8(bundle: Exported, provider: str) -> None:
    """Compare an int8 bundle on a provider, which leaves most of its nodes to the CPU, with the CPU."""
    wanted, found = (runtime.load(bundle.folder, provider=each) for each in ("cpu", provider))
    for shape in SHAPES:
        feeds = bundle.feeds(shape)
        for name, logits in found.run(feeds).items():
            np.testing.assert_allclose(logits, wanted.run(feeds)[name], atol=1e-2)


def exported(name: str, folder: Path, device: str, target: str, precision: str = "fp32") -> Exported:
    case = CASES[name]
    model = case.build()
    export(
        copy.deepcopy(model),
        False,
        None if case.setups is None else dict(case.setups),
        case.drops if len(case.drops) > 1 else case.drops[0],
        folder,
        target=target,
        precision=precision,
        routed=case.routed,
    )
    return Exported(folder, model.to(device).eval(), case, device)
