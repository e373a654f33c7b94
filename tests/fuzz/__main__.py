"""Runs the fuzzer: python -m tests.fuzz --minutes 60.

Exit status: 0 if every case had a right outcome, 1 if there are finds. A run is repeated by its --seed, up to its time.
"""

# threads and hubs are settled before the libraries are imported
from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", TORCH_FAKE_TENSOR_DISPATCH_CACHE="0")

import argparse
import contextlib
import importlib
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import campaign
from tests.fuzz.pool import Pool, in_child
from tests.fuzz.seeds import write_all
from tests.fuzz.surfaces import SURFACES

# What the command lines import when they run; forked workers have it then.
_LATER = (
    "exporter.cli.export",
    "exporter.cli.add",
    "exporter.cli.inspect",
    "exporter.inspect.why",
    "runtime.command_line",
    "peft",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer, and return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="time of the random cases; default 1")
    parser.add_argument("--surface", action="append", choices=list(SURFACES), help="only this surface; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random cases; default 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first case; default 0")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes; default 1")
    parser.add_argument("--replay", type=Path, nargs="*", metavar="FILE", help="only these cases; none for the whole corpus")
    parser.add_argument("--write", action="store_true", help="write minimised finds into tests/fuzz/corpus")
    parser.add_argument("--seeds", type=Path, metavar="DIR", help="folder that keeps the seeds, which take seconds to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    for name in _LATER:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.ExitStack() as stack:
        seeds = (options.seeds or Path(folder) / "seeds").resolve()
        if not seeds.exists():
            in_child(write_all, seeds)
        pool, aside = Pool(seeds, Path(folder) / "boxes", options.jobs), Pool(seeds, Path(folder) / "aside")
        stack.callback(pool.close)
        stack.callback(aside.close)
        start = time.monotonic()
        files = sorted(campaign.CORPUS.glob("*.json")) if options.replay is None or not options.replay else options.replay
        found = campaign.run((campaign.load(path) for path in files), pool, aside, None)
        print(f"corpus, {len(files)} files:\n{campaign.summary(found, time.monotonic() - start)}\n")
        if found.finds or options.replay is not None:
            return int(bool(found.finds))
        start = time.monotonic()
        cases = campaign.generated(
            options.seed, options.surface or list(SURFACES), seeds, start + 60 * options.minutes, options.first
        )
        found = campaign.run(cases, pool, aside, campaign.CORPUS if options.write else None)
        print(campaign.summary(found, time.monotonic() - start))
    return int(bool(found.finds))


if __name__ == "__main__":
    raise SystemExit(main())
