"""The change of a weight from a base model to a fine-tune, as a product of two small matrices where it is one."""

from __future__ import annotations

import torch

__all__ = ["changed_rows", "low_rank_change"]

# The distance of a number in fp32 from the next one, relative to it.
_ROUNDING = 2.0**-23
Factors = tuple[torch.Tensor, torch.Tensor]


def low_rank_change(own: torch.Tensor, base: torch.Tensor) -> Factors | None:
    """Return the change of a matrix as two factors, if it is of low rank but for the rounding of the sum to fp32.

    Args:
        own: the weight of the fine-tune, [out, in].
        base: the weight of the base model.

    Returns:
        The factors [rank, in] and [out, rank] in fp32, which together have at most half of the weight's numbers; None if the
        rank is higher.
    """
    high, wide = own.shape
    limit = high * wide // (2 * (high + wide))
    own, delta = own.double(), own.double() - base.double()
    if not limit or _exceeds(own, delta, limit):
        return None
    # A random sketch: its columns span those of the matrix if there are more of them than the rank (Halko et al., 2011).
    columns = min(limit + 8, high, wide)
    basis = torch.linalg.qr(delta @ torch.randn(wide, columns, generator=_generator(), dtype=delta.dtype))[0]
    inner = basis.t() @ delta
    left, values, right = torch.linalg.svd(inner, full_matrices=False)
    rank = _rank(values, float((delta - basis @ inner).norm()), _tolerance(own, delta))
    if rank is None or rank > limit:
        return None
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).float(), ((basis @ left[:, :rank]) * root).float()


def _tolerance(own: torch.Tensor, delta: torch.Tensor) -> float:
    """The norm of the rounding errors: one for the sum, and a few for the product of the factors that was added."""
    return _ROUNDING * float(own.norm() + 4 * delta.norm())


def _rank(values: torch.Tensor, rest: float, tolerance: float) -> int | None:
    """The smallest rank that leaves no more than the tolerance, from singular values and the norm of what they leave."""
    left = [rest**2]
    for value in reversed(values.tolist()):
        left.append(left[-1] + value**2)
    ranks = [rank for rank, square in enumerate(reversed(left)) if square <= tolerance**2]
    return ranks[0] if ranks else None


def _exceeds(own: torch.Tensor, delta: torch.Tensor, limit: int) -> bool:
    """Whether a part of the change already has a higher rank, which takes less time to see."""
    size = min(limit + 8, *delta.shape)
    rows, columns = (torch.randperm(count, generator=_generator())[:size] for count in delta.shape)
    part = delta[rows][:, columns]
    rank = _rank(torch.linalg.svdvals(part), 0.0, _tolerance(own[rows][:, columns], part))
    return rank is None or rank > limit


def changed_rows(own: torch.Tensor, base: torch.Tensor) -> torch.Tensor | None:
    """Return the numbers of the rows in which two tables differ; None if they are more than an eighth."""
    rows = (own != base).any(1).nonzero().flatten()
    return rows if len(rows) <= len(own) // 8 else None


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
