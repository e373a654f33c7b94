"""The drop follows the load: more adapters are dropped while calls take longer than a target, and fewer afterwards.

    python -m exporter --drop 0,3,5 --output onnx-drops
    python examples/python/dynamic_drop.py onnx-drops --target-ms 20 --clients 8

Each answer says with which drop it was computed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import runtime

_TEXT = "The new phone is fast, and the screen is gorgeous."


def drops_under_load(predictor: runtime.Predictor, clients: int, calls: int) -> Counter[int]:
    """Return how many calls were answered with each drop, while `clients` threads call at the same time.

    Args:
        predictor: a bundle of several drops, loaded with a policy.
        clients: number of threads.
        calls: number of calls of each.
    """

    def client(_: int) -> list[int]:
        answers = (next(iter(predictor.predict([_TEXT]).values()))[0] for _ in range(calls))
        return [answer.drop for answer in answers if answer.drop is not None]

    with ThreadPoolExecutor(clients) as threads:
        return Counter(drop for found in threads.map(client, range(clients)) for drop in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the drops with one client, with many, and with one again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a bundle of several drops")
    parser.add_argument("--target-ms", type=float, default=20.0, help="mean time of a run above which the drop is raised")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100, help="calls of each client")
    options = parser.parse_args(arguments)
    policy = runtime.LatencyTarget(options.target_ms / 1e3)
    predictor = runtime.load(options.folder, provider="cpu", policy=policy)
    predictor.prepare()  # opens the graphs of all drops, which the first calls would do otherwise
    for clients in (1, options.clients, 1):
        start = time.perf_counter()
        counts = drops_under_load(predictor, clients, options.calls)
        milliseconds = 1e3 * clients * (time.perf_counter() - start) / counts.total()
        shown = ", ".join(f"drop {drop}: {counts[drop]} calls" for drop in sorted(counts))
        print(f"{clients} clients: {milliseconds:.1f} ms a call; {shown}")


if __name__ == "__main__":
    main()
