"""The exceptions of the exporter.

Each message states what was expected, what was found and what to do next.
"""

from __future__ import annotations


class ExportError(Exception):
    """Invalid arguments, an unsupported model or invalid input; the command line exits with status 2."""


class VerificationError(ExportError):
    """The exported graph differs from PyTorch; nothing was written and the command line exits with status 1."""
