"""Rotary embeddings with frequencies for lengths: without branches and state, the same numbers as a fresh model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from exporter.trace.patches.rotary import patch_rotary
from tests.helpers.support_models import CONFIGS


def _embedding(architecture: str) -> Any:
    return Qwen3RotaryEmbedding(Qwen3Config(**CONFIGS[architecture]))


@pytest.mark.parametrize("architecture", ["Qwen3", "Qwen3, longrope", "Qwen3, dynamic RoPE"])
def test_lengths(architecture: str) -> None:
    patched = _embedding(architecture)
    patch_rotary(patched)
    found = {}
    for length in (1, 32, 16, 17, 3):
        values, positions = torch.zeros(2, length, 32), torch.arange(length)[None]
        found[length] = patched(values, positions)
        for one, other in zip(found[length], _embedding(architecture)(values, positions), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    same = torch.equal(found[17][0][:, :16], found[16][0])
    assert same == (architecture != "Qwen3, longrope")


def test_the_state_of_the_model_does_not_count() -> None:
    """A text beyond the limit of the graph leaves other frequencies in the library's module."""
    used = _embedding("Qwen3, dynamic RoPE")
    values = torch.zeros(1, 9, 32)
    expected = copy.deepcopy(used)(values, torch.arange(9)[None])
    used(torch.zeros(1, 60, 32), torch.arange(60)[None])
    patch_rotary(used)
    for one, other in zip(used(values, torch.arange(9)[None]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
