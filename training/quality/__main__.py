"""Train adapters of a 12-layer base model (all-mpnet-base-v2) in the ways that the AdapterDrop paper compares.

Each adapter is a piece: a task, a method and a seed. Finished pieces are skipped, so that the
same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from training.download import DownloadError, corpora
from training.quality.methods import METHODS, QUALITY_TASKS
from training.quality.mpnet import base_model_folder
from training.quality.test_sets import write_test_sets
from training.quality.train import Piece, train


def pieces(tasks: Sequence[str], methods: Sequence[str], seeds: int) -> Iterator[Piece]:
    """Yield all pieces of a seed before those of the next, so that an interrupted run covers all tasks and methods."""
    for seed, task, method in itertools.product(range(seeds), tasks, methods):
        yield Piece(task, method, seed)


def _names(text: str | None, known: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    chosen = text.split(",") if text else list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"unknown {', '.join(unknown)}; expected some of {', '.join(known)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.quality", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the adapters and the test sets")
    parser.add_argument("--tasks", help=f"comma-separated; default {','.join(QUALITY_TASKS)}")
    parser.add_argument("--methods", help=f"comma-separated; default {','.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="train with the seeds 0 to N-1; default 3")
    parser.add_argument("--limit-seconds", type=float, metavar="S", help="begin no further piece after this time")
    parser.add_argument("--threads", type=int, metavar="N", help="PyTorch threads; all cores by default")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "adapterdrop-training",
        help="folder of the base model, corpora and checkpoints; default ~/.cache/adapterdrop-training",
    )
    options = parser.parse_args(arguments)
    tasks = _names(options.tasks, list(QUALITY_TASKS), parser)
    methods = _names(options.methods, list(METHODS), parser)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, found {options.seeds}")
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    try:
        base_model, corpus = base_model_folder(options.cache), corpora(options.cache)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_test_sets(options.out / "texts", tasks, base_model, corpus)
    return _train_all(list(pieces(tasks, methods, options.seeds)), options, base_model, corpus)


def _train_all(wanted: list[Piece], options: argparse.Namespace, base_model: Path, corpus: Path) -> int:
    start = time.monotonic()
    missing = [piece for piece in wanted if not (options.out / piece.name).exists()]
    checkpoints = options.cache / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for done, piece in enumerate(missing):
        if options.limit_seconds is not None and time.monotonic() - start > options.limit_seconds:
            print(f"{len(missing) - done} of {len(wanted)} adapters are left; run the same command again", flush=True)
            return 0
        shutil.rmtree(options.out / f"{piece.name}.partial", ignore_errors=True)
        result = train(piece, options.out, base_model, corpus, checkpoints / f"quality-{piece.name}.pt")
        print(f"{piece.name}: {result['seconds']:.0f} s", flush=True)
    print(f"all {len(wanted)} adapters are in {options.out}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
