"""The argument parser of the exporter's command lines, which is that of the runtime."""

from runtime.options_text import CommandParser as Parser

__all__ = ["Parser"]
