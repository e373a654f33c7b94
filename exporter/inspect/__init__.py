"""Looks into an exported folder: what is trunk and what is branch, what it costs, and what was saved.

from exporter.inspect import inspect_bundle
inspection = inspect_bundle("onnx", (1, 128))
"""

from exporter.inspect.read import inspect_bundle
from exporter.inspect.views import Inspection

__all__ = ["Inspection", "inspect_bundle"]
