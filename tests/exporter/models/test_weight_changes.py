"""Changes of low rank are found up to the rounding of the fine-tune to fp32, and no others."""

from __future__ import annotations

import pytest
import torch

from exporter.models.weight_changes import changed_rows, low_rank_change

HIGH, WIDE = 96, 64


def matrices(rank: int, scale: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the change of a LoRA."""
    generator = torch.Generator().manual_seed(rank)
    base, up, down = (torch.randn(shape, generator=generator) for shape in ((HIGH, WIDE), (HIGH, rank), (rank, WIDE)))
    return base, scale * up @ down


@pytest.mark.parametrize(("rank", "scale"), [(1, 1e-3), (3, 0.05), (18, 0.05), (4, 10.0)])
def test_a_merged_lora_is_found(rank: int, scale: float) -> None:
    base, change = matrices(rank, scale)
    factors = low_rank_change(base + change, base)
    assert factors is not None
    down, up = factors
    assert down.shape == (rank, WIDE)
    assert up.shape == (HIGH, rank)
    assert torch.allclose(base + up @ down, base + change, rtol=1e-6, atol=1e-5 * float(change.abs().max()))


@pytest.mark.parametrize(
    "own",
    [
        matrices(3)[0] + matrices(40)[1],
        torch.add(*matrices(3)).bfloat16().float(),
        torch.add(*matrices(3)) + 1e-5 * matrices(7)[0],
    ],
    ids=("a high rank", "saved in bf16", "a small change of any rank"),
)
def test_other_changes_are_whole(own: torch.Tensor) -> None:
    assert low_rank_change(own, matrices(3)[0]) is None


def test_few_rows_of_an_embedding() -> None:
    base = torch.zeros(32, 4)
    own = base.clone()
    own[[2, 9]] += 1
    found = changed_rows(own, base)
    assert found is not None
    assert found.tolist() == [2, 9]
    assert changed_rows(base + 1, base) is None
