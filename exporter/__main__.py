"""Runs the command line: python -m exporter."""

import os
import sys

from exporter.cli.main import main

try:
    status = main()
    sys.stdout.flush()
except BrokenPipeError:  # the reader, such as `head`, has closed the pipe; Python's flush at exit must not fail either
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = 0
sys.exit(status)
