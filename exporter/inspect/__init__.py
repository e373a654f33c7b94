"""Inspection of an exported folder: its trunk and branches, what each part costs, and what one graph saves.

Example:
    from exporter.inspect import inspect_bundle

    inspection = inspect_bundle("onnx", (1, 128))
"""

from exporter.inspect.read import inspect_bundle
from exporter.inspect.views import Inspection

__all__ = ["Inspection", "inspect_bundle"]
