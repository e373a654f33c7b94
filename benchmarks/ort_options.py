"""Options with which the benchmarks open graphs in ONNX Runtime without the runtime package, ours and others' alike."""

from __future__ import annotations

import onnxruntime

_ERRORS_ONLY = 3  # warnings concern internal optimizations


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options with a number of threads within an operator, which stop when a run ends.

    By default they wait in a loop for some 30 ms and take the cores from the session that runs next: one file per task would
    seem slower than it can be.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
