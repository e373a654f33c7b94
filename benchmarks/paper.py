"""Benchmark of the figures of the AdapterDrop paper (arXiv 2010.11918), next to those that it publishes.

`python -m benchmarks.paper` measures a randomly initialized BERT of base size: 2, 4, 8 and 16 tasks computed for the same texts
without a drop and with five shared layers, and fusions of 2, 8 and 16 members relative to a fine-tuned model. Each is measured
with today's `adapters` library in PyTorch and with our graphs, whose outputs are compared first. The paper measured on GPUs.

With --folder, graphs and rounds are kept, and the next run continues where the previous one stopped; --seconds limits a run.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification

from benchmarks import fusion
from benchmarks.checks import TOLERANCE
from benchmarks.command import exit_status
from benchmarks.contender import Call, Feeds, MismatchError, Outputs, max_difference
from benchmarks.device import Device
from benchmarks.growth import numbers
from benchmarks.intervals import Interval
from benchmarks.kept_rounds import KeptRounds
from benchmarks.machine import current_machine
from benchmarks.models import Candidate, bert_config, random_bert, twin
from benchmarks.options import Shape, parse_shapes, random_bert_parser
from benchmarks.paper_plot import plot
from benchmarks.paper_tables import (
    DROP,
    EAGER,
    FINE_TUNED,
    FUSIONS,
    OURS,
    REASONS,
    Figure,
    drop_name,
    figures,
    markdown,
    tasks_name,
)
from benchmarks.results_file import read_lines, rounds_lines, write_rows
from benchmarks.task_counts import counted_folder, export_counts, graph_call, graph_calls
from benchmarks.torch_contenders import bind_parallel, with_parallel
from exporter import export
from exporter.inspect import inspect_bundle
from exporter.models.quiet_libraries import quiet
from exporter.verify.random_inputs import make_inputs
from runtime.bundle import MANIFEST, MODEL


class _Paper:
    """The models, their exports, and the rounds measured so far. A group is a number of tasks, or the fusions."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._rounds = KeptRounds(
            folder, {name: getattr(options, name) for name in ("layers", "hidden", "threads", "seed", "tasks")}
        )
        self._folder = folder
        self._cases = [case for case in fusion.cases(DROP) if case.kept == case.members]
        self.groups: dict[str, Callable[[], dict[str, Path]]] = {
            **{tasks_name(count): functools.partial(self._export_tasks, count) for count in options.tasks},
            FUSIONS: self._export_fusions,
        }

    @functools.cached_property
    def _tasks(self) -> Candidate:
        options = self._options
        return random_bert(options.layers, options.hidden, max(2, *options.tasks), 0, options.seed)

    @functools.cached_property
    def _fusions(self) -> Any:
        return fusion.random_fusions(self._options.layers, self._options.hidden, self._options.seed)

    @functools.cached_property
    def _fine_tuned(self) -> Any:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(self._options.seed)
            return BertForSequenceClassification(bert_config(self._options.layers, self._options.hidden)).eval()

    def _export_tasks(self, count: int) -> dict[str, Path]:
        export_counts(self._tasks, self._folder, [count], (0, DROP))
        return {"": counted_folder(self._folder, count)}

    def _export_fusions(self) -> dict[str, Path]:
        folders = {case.name: self._folder / case.name.replace(", ", "-").replace(" ", "-") for case in self._cases}
        folders[FINE_TUNED] = self._folder / FINE_TUNED
        for case in self._cases:
            if not (folders[case.name] / "onnx" / MANIFEST).exists():
                print(f"exporting {case.name} …", file=sys.stderr, flush=True)
                folders[case.name].mkdir(exist_ok=True)
                fusion.export_case(self._fusions, case, folders[case.name])
        if not (folders[FINE_TUNED] / "onnx" / MANIFEST).exists():
            export(self._fine_tuned, adapters=[f"{FINE_TUNED}=base"], output=folders[FINE_TUNED] / "onnx")
        return {name: folder / "onnx" for name, folder in folders.items()}

    def measure(self, group: str, shape: Shape, seconds: float) -> None:
        """Measure rounds of a group at a shape until there are enough, or for `seconds` and at least one round."""
        name = _key(group, shape)
        if self._rounds.count(name) >= self._options.rounds or seconds <= 0:
            return
        folders = self.groups[group]()
        feeds = make_inputs(self._tasks.plan, shape.batch, shape.length, self._options.seed, masks="none")
        calls = self._fusion_calls(folders, feeds) if group == FUSIONS else self._task_calls(group, folders[""], feeds)
        for case in {call.partition(" ")[2] for call in calls}:
            difference = max_difference(calls[f"{OURS} {case}"](), calls[f"{EAGER} {case}"]())
            if not difference <= TOLERANCE:
                raise MismatchError(
                    f"{group}, {case} at {shape} differs from PyTorch by {difference:.1e}: nothing was measured"
                )
        self._rounds.measure(name, calls, self._options.rounds, self._options.seed, seconds)

    def _task_calls(self, group: str, folder: Path, feeds: Feeds) -> dict[str, Call]:
        names = self._tasks.tasks[: int(group.split()[0])]
        calls = {}
        for drop, ours in graph_calls(folder, self._options.threads, feeds).items():
            model = with_parallel(twin(self._tasks.model), names, drop)
            calls[f"{EAGER} {drop_name(drop)}"] = bind_parallel(model, Device("cpu"))(feeds)
            calls[f"{OURS} {drop_name(drop)}"] = ours
        return calls

    def _fusion_calls(self, folders: Mapping[str, Path], feeds: Feeds) -> dict[str, Call]:
        inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}

        def fine_tuned() -> Outputs:
            with torch.inference_mode():
                return [self._fine_tuned(**inputs).logits.numpy()]

        calls: dict[str, Call] = {f"{EAGER} {FINE_TUNED}": fine_tuned}
        calls |= {f"{EAGER} {case.name}": fusion.eager_call(self._fusions, case, feeds) for case in self._cases}
        threads = self._options.threads
        return calls | {f"{OURS} {name}": graph_call(folder / MODEL, threads, feeds) for name, folder in folders.items()}

    def times(self, shape: Shape) -> dict[str, dict[str, list[float]]]:
        """Return group -> call -> seconds of each round, for the groups that have a round."""
        found = {group: self._rounds.times(_key(group, shape)) for group in self.groups}
        return {group: own for group, own in found.items() if own}

    def flops(self, group: str, shape: Shape) -> dict[str, int]:
        """Return the operations of the matrix products of each of our graphs of a group, which has a round."""
        found = {}
        for name, folder in self.groups[group]().items():
            for graph in inspect_bundle(folder, (shape.batch, shape.length)).graphs:
                found[name or drop_name(graph.drop)] = sum(graph.products.values())
        return found

    @property
    def shapes(self) -> list[Shape]:
        """All shapes that have a round, those of earlier pieces included."""
        return sorted({shape for name in self._rounds.groups for shape in parse_shapes(name.rpartition(", ")[2])})

    @property
    def members(self) -> list[int]:
        """Numbers of members of the fusions."""
        return list(dict.fromkeys(case.members for case in self._cases))


def _key(group: str, shape: Shape) -> str:
    return f"{group}, {shape}"


def read_figures(path: Path) -> list[Figure]:
    """Read the figures of a results file."""
    rows = []
    for line in read_lines(path, "row"):
        spans = {name: Interval(*line[name]) for name in ("eager", "ours", "throughput")}
        rows.append(Figure(**{**{key: value for key, value in line.items() if key != "kind"}, **spans}))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = random_bert_parser("paper", __doc__, "1x128", 15, f"layers, more than {DROP}")
    parser.add_argument(
        "--tasks", type=numbers, default=[2, 4, 8, 16], metavar="N,…", help="numbers of tasks; default 2,4,8,16"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep graphs and rounds here, and continue from them")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="S", help="time limit; 0: only export and report"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.layers <= DROP:
        parser.error(f"--layers must be more than {DROP}, the number of shared layers; found {options.layers}")
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:

        def work() -> None:
            run = _Paper(options.folder or Path(scratch), options)
            for export_group in run.groups.values():
                export_group()
            for shape in options.shapes:
                for group in run.groups:
                    run.measure(group, shape, options.seconds - (time.monotonic() - start))
            _report(run, options)

        return exit_status(work)


def _report(run: _Paper, options: argparse.Namespace) -> None:
    rows: list[Figure] = []
    raw: dict[str, dict[str, list[float]]] = {}
    shapes = run.shapes
    for shape in shapes:
        times = run.times(shape)
        flops = {group: run.flops(group, shape) for group in times}
        rows += figures(str(shape), times, flops, options.tasks, run.members)
        raw |= {_key(group, shape): own for group, own in times.items()}
    if not rows:
        print("no round is measured yet: run the command again without --seconds 0")
        return
    head: dict[str, Any] = {
        "command": options.command,
        "paper": "arXiv 2010.11918",
        **{name: getattr(options, name) for name in ("layers", "hidden", "seed", "tasks")},
    }
    head["complete"] = len(raw) == len({*shapes, *options.shapes}) * len(run.groups) and all(
        row.rounds >= options.rounds for row in rows
    )
    lines = [
        {**line, "reference": f"{EAGER} {FINE_TUNED if line['group'].startswith(FUSIONS) else drop_name(0)}"}
        for line in rounds_lines(raw, "")
    ]
    path = write_rows(options.output, "paper", head, current_machine(options.threads), rows, lines, continued=True)
    pictures = plot(rows, path.with_suffix(""))
    print(markdown(rows))
    print(*("", *(f"- {REASONS[table]}" for table in dict.fromkeys(row.table for row in rows)), ""), sep="\n")
    print(f"wrote {', '.join(map(str, (path, *pictures)))}")


if __name__ == "__main__":
    sys.exit(main())
