"""Benchmark of AdapterFusion: eager PyTorch against one ONNX graph.

`python -m benchmarks.fusion` measures fusions of 2, 8 and 16 members, of 8 members with 2 kept, and of 8 members without the
lowest five layers, all in one run of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapters import BertAdapterModel
from adapters.composition import Fuse
from rich.console import Console
from rich.table import Table

from benchmarks.call_rows import timed
from benchmarks.checks import TOLERANCE
from benchmarks.command import exit_status
from benchmarks.contender import Call, Feeds, MismatchError, Outputs, max_difference
from benchmarks.machine import Machine, current_machine
from benchmarks.models import bert_config, twin
from benchmarks.options import Shape, random_bert_parser
from benchmarks.results_file import rounds_lines, write_rows
from benchmarks.rounds import p95, paired_ratio
from benchmarks.task_counts import graph_call
from exporter import export
from exporter.checkpoints.load import Checkpoint
from exporter.models.quiet_libraries import quiet
from exporter.planning.make_plan import make_plan
from exporter.verify.random_inputs import make_inputs
from runtime.bundle import MODEL

_TASK = "fused"
_MEMBERS = (2, 8, 16)
_STD = 0.05


@dataclass(frozen=True)
class Case:
    """One fusion to measure.

    Attributes:
        members: number of fused adapters.
        kept: number of members that remain in each layer.
        drop: number of lowest layers without adapters.
    """

    members: int
    kept: int
    drop: int

    @property
    def name(self) -> str:
        """Name in the results."""
        pruned = f", {self.kept} kept" if self.kept < self.members else ""
        return f"{self.members} members{pruned}" + (f", drop {self.drop}" if self.drop else "")

    def setup(self, members: int) -> Fuse:
        """Return the composition of the first `members` adapters with the weights of the whole fusion."""
        return Fuse(*_names(members), name=",".join(_names(self.members)))


def _names(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def cases(drop: int) -> tuple[Case, ...]:
    """Return the fusions to measure; `drop` applies to the last one."""
    return (*(Case(members, members, 0) for members in _MEMBERS), Case(8, 2, 0), Case(8, 8, drop))


def random_fusions(layers: int, hidden: int, seed: int) -> Any:
    """Return a randomly initialized BERT with 16 seq_bn adapters, fusions of the first 2, 8 and 16, and one head."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = BertAdapterModel(bert_config(layers, hidden))
        for name in _names(max(_MEMBERS)):
            model.add_adapter(name, config="seq_bn")
        for members in _MEMBERS:
            model.add_adapter_fusion(Fuse(*_names(members)))
        model.add_classification_head(_TASK, num_labels=3, layers=1)
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                torch.nn.init.normal_(parameter, std=_STD)
    return model.eval()


def eager_call(model: Any, case: Case, feeds: Feeds) -> Call:
    """Return the call of one fusion in PyTorch."""
    own = twin(model)
    own.set_active_adapters(case.setup(case.kept), skip_layers=list(range(case.drop)) or None)
    own.active_head = _TASK
    inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}

    def call() -> Outputs:
        with torch.inference_mode():
            return [own(**inputs).logits.numpy()]

    return call


def export_case(model: Any, case: Case, folder: Path) -> Path:
    """Export one fusion into `folder`/onnx, and return that folder."""
    scores = folder / "scores.json"
    layers = range(case.drop, model.config.num_hidden_layers)
    ranked = {name: float(-number) for number, name in enumerate(_names(case.members))}
    scores.write_text(json.dumps({str(layer): ranked for layer in layers}), encoding="utf-8")
    pruned = {"keep_fused": case.kept, "calibration": scores} if case.kept < case.members else {}
    # mypy gives all values of `pruned` one type
    export(model, tasks={_TASK: case.setup(case.members)}, drop=case.drop, output=folder / "onnx", **pruned)  # type: ignore[arg-type]
    return folder / "onnx"


@dataclass(frozen=True)
class Row:
    """Times of one case at one shape.

    Attributes:
        case: name of the case.
        shape: batch x length.
        rounds: number of rounds.
        eager_ms: median time of eager PyTorch, in milliseconds.
        eager_p95_ms: 95th percentile of the same.
        ours_ms: median time of the ONNX graph, in milliseconds.
        ours_p95_ms: 95th percentile of the same.
        ratio: median of eager / ours over the rounds.
        max_difference: largest absolute difference of the logits.
    """

    case: str
    shape: str
    rounds: int
    eager_ms: float
    eager_p95_ms: float
    ours_ms: float
    ours_p95_ms: float
    ratio: float
    max_difference: float


def _measure(
    model: Any, folders: dict[Case, Path], shape: Shape, options: argparse.Namespace
) -> tuple[list[Row], dict[str, dict[str, list[float]]]]:
    plan = make_plan(Checkpoint(model, None, _TASK), {_TASK: next(iter(folders)).setup(2)}, 0)
    feeds: Feeds = make_inputs(plan, shape.batch, shape.length, options.seed)
    calls, differences = {}, {}
    for case, folder in folders.items():
        calls[f"eager {case.name}"], calls[f"ours {case.name}"] = (
            eager_call(model, case, feeds),
            graph_call(folder / MODEL, options.threads, feeds),
        )
        differences[case] = max_difference(calls[f"ours {case.name}"](), calls[f"eager {case.name}"]())
        if not differences[case] <= TOLERANCE:
            raise MismatchError(f"{case.name} at {shape} differs from PyTorch by {differences[case]:.1e}: nothing was written")
    times = timed(calls, shape, options.rounds, options.seed)
    rows = []
    for case, difference in differences.items():
        eager, ours = times[f"eager {case.name}"], times[f"ours {case.name}"]
        rows.append(
            Row(
                case=case.name,
                shape=str(shape),
                rounds=options.rounds,
                eager_ms=1e3 * statistics.median(eager),
                eager_p95_ms=1e3 * p95(eager),
                ours_ms=1e3 * statistics.median(ours),
                ours_p95_ms=1e3 * p95(ours),
                ratio=paired_ratio(eager, ours),
                max_difference=difference,
            )
        )
    raw = {f"{case.name}, {shape}": {way: times[f"{way} {case.name}"] for way in ("eager", "ours")} for case in folders}
    return rows, raw


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per case, a column per shape."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    lines = [f"| fusion | {' | '.join(shape.replace('x', ' x ') for shape in shapes)} |", "| --- |" + " ---: |" * len(shapes)]
    for case in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == case]
        cells = [f"{row.eager_ms:,.0f} → {row.ours_ms:,.0f} ms ({row.ratio:.2f}x)" for row in own]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    return random_bert_parser("fusion", __doc__, "1x32,1x128", 15, "layers, more than 5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    machine = current_machine(options.threads)
    torch.set_num_threads(options.threads)

    def work() -> None:
        rows: list[Row] = []
        raw: dict[str, dict[str, list[float]]] = {}
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            model, folders = random_fusions(options.layers, options.hidden, options.seed), {}
            for number, case in enumerate(cases(5)):
                print(f"exporting {case.name} …", file=sys.stderr, flush=True)
                folder = Path(scratch) / str(number)
                folder.mkdir()
                folders[case] = export_case(model, case, folder)
            for shape in options.shapes:
                found, times = _measure(model, folders, shape, options)
                rows += found
                raw |= times
        _write(rows, raw, machine, options)

    return exit_status(work)


def _write(
    rows: Sequence[Row], raw: Mapping[str, Mapping[str, Sequence[float]]], machine: Machine, options: argparse.Namespace
) -> None:
    head = {"command": options.command, "layers": options.layers, "hidden": options.hidden, "seed": options.seed}
    path = write_rows(options.output, "fusion", head, machine, rows, rounds_lines(raw, "eager"))
    table = Table(title="AdapterFusion: eager PyTorch against one ONNX graph, fp32")
    for column in ("fusion", "shape", "eager ms", "p95", "ours ms", "p95 ", "ratio", "max diff"):
        table.add_column(column, justify="left" if column in ("fusion", "shape") else "right", no_wrap=True)
    for row in rows:
        numbers = (row.eager_ms, row.eager_p95_ms, row.ours_ms, row.ours_p95_ms)
        cells = [f"{value:,.1f}" for value in numbers]
        table.add_row(row.case, row.shape, *cells, f"{row.ratio:.2f} x", f"{row.max_difference:.0e}")
    (Console() if sys.stdout.isatty() else Console(width=120)).print(table)
    print(markdown(rows))
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
