"""Counts in a readable form."""

from __future__ import annotations


def flops(count: float) -> str:
    """Format floating-point operations with three digits: 1.93 GFLOP."""
    return _scaled(count, "FLOP")


def size(count: float) -> str:
    """Format bytes with three digits; a kilobyte has 1000: 99.1 MB."""
    return _scaled(count, "B")


def share(part: float, whole: float) -> str:
    """Format a percentage, or a dash if the whole is zero."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def times(more: float, less: float) -> str:
    """Format a ratio with two digits: 2.6."""
    return f"{more / less:.2g}" if less and more / less < 100 else f"{more / less:.0f}" if less else "-"


def _scaled(count: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            value = count / factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {prefix}{unit}"
    return f"{count:.0f} {unit}"
