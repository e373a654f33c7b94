"""Exports many tasks of one adapter model into one ONNX graph with a shared trunk.

from exporter import export
report = export(model, tokenizer, drop=5, output="onnx")
"""

from .errors import ExportError, VerificationError
from .export import export
from .report import Report

__all__ = ["ExportError", "Report", "VerificationError", "export"]
