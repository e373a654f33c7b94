"""python -m exporter"""

import os
import sys

from exporter.cli.main import main

try:
    status = main()
    sys.stdout.flush()
except BrokenPipeError:  # the reader, say `head`, has seen enough; Python's own flush at exit must not complain either
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = 0
sys.exit(status)
