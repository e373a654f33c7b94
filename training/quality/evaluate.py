"""Evaluate the adapters of `python -m training.quality` through exported graphs, at every drop.

Adapters and drops are exported into one bundle for each precision, and every adapter predicts the test texts of its task.
What is measured is kept, so that the same command continues an interrupted run, and measures adapters that were trained since.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import AutoTokenizer

import runtime
from exporter import ExportError
from training.download import DownloadError
from training.quality.answers import FILE, Answers, add_answers, digits, read_answers
from training.quality.graphs import (
    COMPARED,
    Result,
    TestSet,
    bundle,
    library_logits,
    load_adapters,
    predictions,
    read_test_set,
    runs_at,
    trained,
)
from training.quality.methods import MAX_LENGTH, TEST_LIMIT
from training.quality.mpnet import base_model_folder
from training.quality.results import write_results
from training.quality.train import Piece

PRECISIONS = ("fp32", "int8", "fp16")
_DEFAULT = "fp32,int8"
LAYERS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.quality.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of python -m training.quality")
    parser.add_argument("--drops", default=",".join(map(str, range(LAYERS + 1))), help="comma-separated; default 0 to 12")
    parser.add_argument("--precisions", default=_DEFAULT, help=f"some of {','.join(PRECISIONS)}; default {_DEFAULT}")
    parser.add_argument("--texts", type=int, default=TEST_LIMIT, metavar="N", help="test texts per task; default 500")
    parser.add_argument("--limit-seconds", type=float, metavar="S", help="begin no further export or drop after this time")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime; the physical cores by default")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write all results as JSON lines, without texts")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "adapterdrop-training",
        help="folder of the base model; default ~/.cache/adapterdrop-training",
    )
    options = parser.parse_args(arguments)
    texts = options.drops.split(",")
    if not all(text.isdecimal() and int(text) <= LAYERS for text in texts):
        parser.error(f"--drops must be numbers from 0 to {LAYERS}, found {options.drops}")
    if options.texts < 1:
        parser.error(f"--texts must be at least 1, found {options.texts}")
    precisions = options.precisions.split(",")
    if not set(precisions) <= set(PRECISIONS):
        parser.error(f"--precisions must be some of {', '.join(PRECISIONS)}, found {options.precisions}")
    found = trained(options.folder)
    if not found:
        parser.error(f"{options.folder} has no finished adapter: run python -m training.quality --out {options.folder}")
    files = {piece.task: options.folder / "texts" / f"{piece.task}.jsonl" for piece in found}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        parser.error(f"no test set {', '.join(missing)}: run python -m training.quality --out {options.folder}")
    transformers.logging.set_verbosity_error()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("exporter.stages").setLevel(logging.INFO)  # an export takes minutes
    try:
        evaluation = _Evaluation(options, found)
        done = all(evaluation.measure(sorted(set(map(int, texts))), each) for each in precisions)
    except (DownloadError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not done:
        print("some of the graphs are left; run the same command again", flush=True)
    if options.results:
        write_results(options.results, options.folder, found, evaluation.tests)
    return 0


class _Evaluation:
    """The measurement of one folder."""

    def __init__(self, options: argparse.Namespace, found: dict[Piece, Result]) -> None:
        self._options, self._pieces = options, list(found)
        self._start = time.monotonic()
        self._base_model = base_model_folder(options.cache)
        self._tokenizer = AutoTokenizer.from_pretrained(self._base_model, model_max_length=MAX_LENGTH)
        labels = {piece.task: result["labels"] for piece, result in found.items()}
        self.tests = {
            task: read_test_set(options.folder / "texts" / f"{task}.jsonl", self._tokenizer, names, options.texts)
            for task, names in labels.items()
        }

    def measure(self, drops: Sequence[int], precision: str) -> bool:
        """Measure what is missing; return whether all is done."""
        before = {row.key: row for row in read_answers(self._options.folder / FILE)}
        missing = {drop: self._missing(before, drop, precision) for drop in drops}
        missing = {drop: pieces for drop, pieces in missing.items() if pieces}
        if not missing:
            return True
        if self._is_late():
            return False
        every = [piece for piece in self._pieces if any(piece in pieces for pieces in missing.values())]
        model = load_adapters(self._options.folder, self._base_model, every)
        graphs = bundle(model, self._tokenizer, every, list(missing), precision, self._options.folder / "graphs")
        for drop, pieces in missing.items():
            # Loaded for each drop: the graphs of all drops would hold the weights of the base model many times.
            predictor = runtime.load(graphs, provider="cpu", drop=drop, threads=self._options.threads)
            for task in dict.fromkeys(piece.task for piece in pieces):
                if self._is_late():
                    return False
                own = [piece for piece in pieces if piece.task == task]
                rows = self._answers(predictor, model, own, drop, precision, self.tests[task])
                add_answers(self._options.folder / FILE, rows)
                passed = time.monotonic() - self._start
                print(f"{precision}, drop {drop}, {task}: {len(own)} adapters, {passed:.0f} s", flush=True)
        return True

    def _missing(self, before: dict[Any, Answers], drop: int, precision: str) -> list[Piece]:
        found = []
        for piece in filter(lambda each: runs_at(each, drop), self._pieces):
            row = before.get((piece.task, piece.method, piece.seed, precision, drop))
            if row is None or len(row.predictions) < len(self.tests[piece.task].expected):
                found.append(piece)
        return found

    def _is_late(self) -> bool:
        limit = self._options.limit_seconds
        return limit is not None and time.monotonic() - self._start > limit

    def _answers(
        self, predictor: runtime.Predictor, model: Any, pieces: list[Piece], drop: int, precision: str, tests: TestSet
    ) -> list[Answers]:
        padding = self._tokenizer.pad_token_id
        logits = np.zeros((len(tests.inputs), len(pieces), len(tests.labels)), np.float32)
        for numbers, values in predictions(predictor, pieces, drop, tests, padding):
            logits[numbers] = values
        rows = []
        for number, piece in enumerate(pieces):
            difference = None
            if precision == "fp32":
                expected = library_logits(model, piece, drop, tests.inputs[:COMPARED], padding)
                own = logits[:COMPARED, number]
                difference = float(f"{np.abs(own - expected).max() / max(1.0, np.abs(expected).max()):.1e}")
            answers = digits(logits[:, number].argmax(-1))
            rows.append(Answers(piece.task, piece.method, piece.seed, precision, drop, answers, difference))
        return rows


if __name__ == "__main__":
    sys.exit(main())
