"""The exporter's exceptions. Both carry one message that says what was expected, what was found and what to do."""

from __future__ import annotations


class ExportError(Exception):
    """Wrong use, an unsupported model or bad input. The command line exits with status 2."""


class VerificationError(ExportError):
    """The exported graph differs from PyTorch. Nothing was written; the command line exits with status 1."""
