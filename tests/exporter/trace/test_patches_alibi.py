"""The biases of Falcon: the same numbers as those of the library, without arithmetic in bf16."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import FalconConfig, FalconModel

from exporter.trace.patches.alibi import patch_alibi


class _Products(TorchDispatchMode):
    """Counts products in bf16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += func is torch.ops.aten.mul.Tensor and result.dtype == torch.bfloat16
        return result


def _run(model: Any, mask: torch.Tensor) -> tuple[torch.Tensor, int]:
    ids = torch.arange(mask.numel()).reshape(mask.shape) % 50
    with torch.no_grad(), _Products() as products:
        return model(ids, attention_mask=mask)[0], products.count


def test_biases_are_rounded_after_the_product() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 1, "vocab_size": 50}
    model = FalconModel(FalconConfig(**sizes, alibi=True, initializer_range=0.2)).eval()
    other = copy.deepcopy(model)
    patch_alibi(other)
    mask = torch.ones(3, 300, dtype=torch.int64)  # bf16 has no odd numbers from 256 on
    mask[1, 200:] = 0
    mask[2, :7] = 0
    expected, before = _run(model, mask)
    found, after = _run(other, mask)
    assert (before, after) == (1, 0)
    assert torch.equal(found[mask == 1], expected[mask == 1])


def test_rotary_positions_are_left_alone() -> None:
    model = FalconModel(FalconConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=50))
    patch_alibi(model)
    assert "forward" not in vars(model)
