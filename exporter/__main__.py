"""Runs the command line: python -m exporter."""

import importlib
import sys

from runtime.program import shorten_interrupts
from runtime.standard_output import flushed

shorten_interrupts()  # before what takes longer to import
sys.exit(flushed(lambda: importlib.import_module("exporter.cli.main").main()))
