"""The error for a tokenizer, or a graph of tasks, that has no graph from texts."""

from __future__ import annotations

from exporter.errors import ExportError

__all__ = ["refused"]


def refused(reason: str) -> ExportError:
    """Return the error for a reason, a main clause. What to do is the same for all of them."""
    return ExportError(f"--with-tokenizer: {reason}; omit --with-tokenizer")
