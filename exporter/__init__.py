"""Exports many tasks of one adapter model into one ONNX graph with a shared trunk.

Example:
    from exporter import export

    report = export(model, tokenizer, drop=5, output="onnx")
"""

import importlib
from typing import TYPE_CHECKING, Any

import runtime  # noqa: F401  # before ONNX Runtime, whose telemetry it turns off

if TYPE_CHECKING:
    from exporter.add_tasks import add
    from exporter.errors import ExportError, VerificationError
    from exporter.export_tasks import export
    from exporter.hub.push import Pushed, push
    from exporter.report import Report
    from exporter.task_files import TaskReport, task

__all__ = ["ExportError", "Pushed", "Report", "TaskReport", "VerificationError", "add", "export", "push", "task"]

_HOMES = {
    "ExportError": "errors",
    "Pushed": "hub.push",
    "Report": "report",
    "TaskReport": "task_files",
    "VerificationError": "errors",
    "add": "add_tasks",
    "export": "export_tasks",
    "push": "hub.push",
    "task": "task_files",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which `python -m exporter --help` and a mistyped option should not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
