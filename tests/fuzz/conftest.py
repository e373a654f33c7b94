"""The fuzzer watches memory and files through /proc, and its workers are forks."""

import sys

collect_ignore = [] if sys.platform == "linux" else ["test_fuzz.py"]
