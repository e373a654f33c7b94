"""Is it worth it? Every way to run the same adapter tasks, timed side by side on this machine.

    python -m benchmarks            BERT-base with 8 tasks, about ten minutes
    python -m benchmarks --quick    the bundled example, within a minute

All variants get the same inputs, are first checked for equal numbers, and are then timed in interleaved rounds: each round
runs every variant once, in a shuffled order, so that whatever else the machine does hits all of them alike. A run ends in a
table per shape, a file of JSON lines with every single time, and a plot.
"""
