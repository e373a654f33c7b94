"""Benchmark of LoRA tasks of different ranks in one batch, padded with zeros, against tasks of one rank.

`python -m benchmarks.mixed_ranks` exports a randomly initialized BERT twice: with tasks of the ranks 4 and 8 in turn, and with
tasks of rank 8 only. Both exports verify their graphs; then the graphs are timed in one run of interleaved rounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapters import BertAdapterModel, LoRAConfig

from benchmarks.call_rows import COLUMNS, CallBenchmark, Prepared, Times, by_shape
from benchmarks.contender import Call, Feeds, Outputs
from benchmarks.models import bert_config
from benchmarks.onnx_contenders import open_session
from benchmarks.options import Shape, random_bert_parser, whole
from benchmarks.rounds import paired_ratio
from exporter import export
from exporter.models.quiet_libraries import quiet
from runtime.bundle import MODEL

_EQUAL = "tasks of rank 8"
_MIXED = "tasks of the ranks 4 and 8"
_RANKS = {_EQUAL: (8,), _MIXED: (4, 8)}
_STD = 0.05


@dataclass(frozen=True)
class Row:
    """Times of one graph at one shape.

    Attributes:
        call: name of the graph.
        shape: batch x length.
        rounds: number of rounds.
        median_ms: median time in milliseconds.
        p95_ms: 95th percentile of the time in milliseconds.
        ratio: median over the rounds of (time) / (time of the graph of equal ranks).
    """

    call: str
    shape: str
    rounds: int
    median_ms: float
    p95_ms: float
    ratio: float


def _model(ranks: Sequence[int], options: argparse.Namespace) -> Any:
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(options.seed)
        model = BertAdapterModel(bert_config(options.layers, options.hidden))
        for number in range(options.tasks):
            rank = ranks[number % len(ranks)]
            model.add_adapter(f"task{number}", config=LoRAConfig(r=rank, alpha=2 * rank))
            model.add_classification_head(f"task{number}", num_labels=2 + number % 3, layers=1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=_STD)
    return model.eval()


def _calls(folders: Mapping[str, Path], shape: Shape, options: argparse.Namespace) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(options.seed)
    ids = torch.randint(1, 1000, (shape.batch, shape.length), generator=generator).numpy()
    whole: Feeds = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}

    def call(folder: Path) -> Call:
        session = open_session(folder / MODEL, options.threads)
        names = {each.name for each in session.get_inputs()}
        feeds = {name: array for name, array in whole.items() if name in names}

        def run() -> Outputs:
            outputs: Outputs = session.run(None, feeds)
            return outputs

        return run

    return {name: call(folder) for name, folder in folders.items()}


def _row(call: str, shape: Shape, own: Mapping[str, float], times: Times) -> Row:
    return Row(call, str(shape), len(times[call]), own["median_ms"], own["p95_ms"], paired_ratio(times[call], times[_EQUAL]))


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per graph, a column per shape, and in brackets the ratio to equal ranks."""
    return by_shape((row.call, row.shape, row.median_ms, row.ratio) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = random_bert_parser("mixed_ranks", __doc__, "1x128,8x32", 15)
    parser.add_argument("--tasks", type=whole(2), default=8, metavar="N", help="number of tasks, at least 2; default 8")
    parser.add_argument("--drop", type=int, default=5, metavar="N", help="layers without adapters; default 5")
    options = parser.parse_args(arguments)

    def prepare(scratch: Path) -> Prepared:
        folders, head = {}, {}
        for number, (name, ranks) in enumerate(_RANKS.items()):
            folders[name] = scratch / str(number)
            report = export(_model(ranks, options), drop=options.drop, output=folders[name])
            (variant,) = report.variants
            zeros = [task.padding.operations for task in variant.tasks if task.padding is not None]
            head[name] = {"nodes": variant.graph.nodes, "additional operations of a padded task": max(zeros, default=0.0)}
        own = {"layers": options.layers, "hidden": options.hidden, "tasks": options.tasks, "drop": options.drop}
        return Prepared("mixed ranks", {**own, "graphs": head}, lambda shape: _calls(folders, shape, options))

    columns = {**COLUMNS, "x equal ranks": ("ratio", ".2f")}
    return CallBenchmark("mixed-ranks", prepare, _row, _EQUAL, columns, markdown).run(options)


if __name__ == "__main__":
    sys.exit(main())
