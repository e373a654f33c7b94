"""Benchmarks of all ways to run the same adapter tasks, measured together on one machine.

    python -m benchmarks            BERT-base with 8 tasks, about ten minutes
    python -m benchmarks --quick    the bundled example, within a minute
    python -m benchmarks suite      all benchmarks; `compare` compares two folders of results

All contenders get the same inputs. Their outputs are compared first; then they are timed in interleaved rounds: each round runs
every contender once, in shuffled order, so that other load on the machine affects all of them equally. A run writes a table per
shape, a file of JSON lines with every measured time, and a plot.
"""

import runtime  # noqa: F401  # before ONNX Runtime, whose telemetry it turns off
