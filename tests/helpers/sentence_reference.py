"""Embeddings by the documented formulas of sentence-transformers, text by text and without padding, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pooled(hidden: Array, mask: Array, modes: Sequence[str]) -> Array:
    """Hidden states [batch, sequence, features] and mask [batch, sequence] to [batch, modes x features]."""
    texts = zip(hidden, mask, strict=True)
    return np.stack([np.concatenate([_pool(states, row, mode) for mode in modes]) for states, row in texts])


def _pool(states: Array, mask: Array, mode: str) -> Array:
    positions = np.flatnonzero(mask)
    tokens = states[positions].astype(np.float64)
    if mode == "cls":
        return np.asarray(tokens[0])
    if mode == "lasttoken":
        return np.asarray(tokens[-1])
    if mode == "max":
        return np.asarray(tokens.max(0))
    if mode == "weightedmean":
        return np.asarray(np.average(tokens, 0, weights=positions - positions[0] + 1))
    return np.asarray(tokens.sum(0) / (len(tokens) if mode == "mean" else np.sqrt(len(tokens))))


def dense(vectors: Array, weight: Array, bias: Array) -> Array:
    """The module Dense with the activation Tanh."""
    return np.asarray(np.tanh(vectors @ weight.T + bias))


def normalized(vectors: Array) -> Array:
    """The module Normalize."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
