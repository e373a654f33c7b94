"""Poolings and the modules after them, against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporter.models.embeddings import POOLINGS, Dense, Embedder, Normalize, Pooling
from tests.helpers.sentence_reference import dense, normalized, pooled

MASKS = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]])


def states(seed: int = 0) -> torch.Tensor:
    return torch.randn((*MASKS.shape, 6), generator=torch.Generator().manual_seed(seed)) - 2  # mostly below zero


@pytest.mark.parametrize("modes", [*((mode,) for mode in POOLINGS), POOLINGS, ("lasttoken", "cls")], ids="+".join)
def test_poolings(modes: tuple[str, ...]) -> None:
    hidden = states()
    found = Pooling(modes)(hidden, torch.from_numpy(MASKS)).numpy()
    np.testing.assert_allclose(found, pooled(hidden.numpy(), MASKS, modes), atol=1e-6)


@pytest.mark.parametrize("mode", POOLINGS)
def test_padding_has_no_influence(mode: str) -> None:
    hidden, pooling = states(), Pooling([mode])
    alone = pooling(hidden[:, 1:4], torch.ones(5, 3, dtype=torch.int64))
    mask = torch.tensor([[0, 1, 1, 1, 0]] * 5)
    other = torch.where(mask[:, :, None] == 1, hidden, 100.0 * states(1))
    torch.testing.assert_close(pooling(other, mask), alone)


@pytest.mark.parametrize("mode", POOLINGS)
def test_a_row_without_tokens_is_zero(mode: str) -> None:
    assert Pooling([mode])(states(), torch.zeros(5, 5, dtype=torch.int64)).abs().max() == 0


def test_large_states_do_not_overflow_in_half_precision() -> None:
    hidden = torch.full((1, 300, 4), 300.0, dtype=torch.float16)
    assert Pooling(["mean"])(hidden, torch.ones(1, 300, dtype=torch.int64)).float().sub(300).abs().max() < 1


def test_modules_after_the_pooling() -> None:
    torch.manual_seed(0)
    projection = Dense((12, 4), True, "torch.nn.modules.activation.Tanh", False)
    residual = Dense((4, 3), False, "torch.nn.modules.linear.Identity", True)
    embedder = Embedder(("cls", "mean"), (projection, Normalize(), residual), 3).requires_grad_(False)
    hidden = states()
    found = embedder(hidden, torch.from_numpy(MASKS)).numpy()
    weight, bias = (tensor.numpy() for tensor in (projection.linear.weight, projection.linear.bias))
    vectors = normalized(dense(pooled(hidden.numpy(), MASKS, ("cls", "mean")), weight, bias))
    expected = vectors @ (residual.linear.weight + residual.residual.weight).numpy().T
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert embedder.structure()[0] == ["cls", "mean"]
