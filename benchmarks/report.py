"""Result of a run: its data, the printed tables and the file of JSON lines."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contender import Contender, Precision, Prepared
from benchmarks.gemm import Gemm
from benchmarks.gpu import Gpu
from benchmarks.machine import Machine
from benchmarks.models import Candidate
from benchmarks.options import Options, Shape
from benchmarks.rounds import Stats

_LONGEST_LABEL = 36  # characters; the reason for a failure wraps


@dataclass(frozen=True)
class Row:
    """One contender at one shape.

    Attributes:
        contender: the contender.
        shape: shape of the inputs.
        prepared: sizes and export time; None if the preparation failed.
        stats: statistics of the times; None if the contender failed.
        times: seconds of each round.
        difference: max |logits - PyTorch task by task at the same drop|.
        first_call: seconds of the first call, which includes compilation for compiled contenders.
        flops: precision -> operations of the graph's matrix products, exact; empty if they cannot be counted.
        peak_share: (time of these products at the rate of the fastest single product) / (measured time), over the rounds.
        failure: reason for missing numbers, in one line.
    """

    contender: Contender
    shape: Shape
    prepared: Prepared | None
    stats: Stats | None = None
    times: tuple[float, ...] = ()
    difference: float | None = None
    first_call: float | None = None
    flops: Mapping[Precision, int] = field(default_factory=dict)
    peak_share: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class GemmRow:
    """A single matrix product, measured in the rounds of one shape.

    Attributes:
        gemm: the product.
        shape: the shape.
        times: seconds of each round.
        fastest: whether it is the fastest product of its precision.
    """

    gemm: Gemm
    shape: Shape
    times: tuple[float, ...]
    fastest: bool

    @property
    def rate(self) -> float:
        """Operations per second at the median time."""
        return self.gemm.flops / statistics.median(self.times)


@dataclass(frozen=True)
class Result:
    """Complete result of a run.

    Attributes:
        candidate: measured model.
        machine: machine of the measurement.
        options: options of the run.
        date: time of the run.
        rows: one row per contender and shape.
        products: one row per single matrix product and shape.
        clocks: shape -> the GPU just after its rounds, as in `Machine.gpu`; without a GPU empty.
        memory: key of a contender -> memory of the GPU that it takes, in bytes; without a GPU empty.
    """

    candidate: Candidate
    machine: Machine
    options: Options
    date: datetime.datetime
    rows: tuple[Row, ...]
    products: tuple[GemmRow, ...]
    clocks: Mapping[str, Gpu] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)

    def at(self, shape: Shape) -> tuple[Row, ...]:
        """Return the rows of one shape."""
        return tuple(row for row in self.rows if row.shape == shape)

    def peaks(self, shape: Shape) -> tuple[GemmRow, ...]:
        """Return the fastest single product of each precision, measured in the rounds of one shape."""
        return tuple(row for row in self.products if row.shape == shape and row.fastest)

    def reference(self, shape: Shape) -> Row | None:
        """Return the reference of all ratios: the fastest eager contender at the same drop; None if none ran."""
        ran = [
            row for row in self.at(shape) if row.contender.family == "eager" and row.contender.drop == self.candidate.plan.drop
        ]
        return min((row for row in ran if row.stats), key=lambda row: row.stats.median_ms if row.stats else 0.0, default=None)


def write_jsonl(result: Result, path: Path) -> None:
    """Write one self-contained line per contender and shape, then one line per single matrix product and shape."""
    records = [*(_record(result, row) for row in result.rows), *map(_gemm_record, result.products)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _record(result: Result, row: Row) -> dict[str, Any]:
    machine, reference = result.machine, result.reference(row.shape)
    return {
        "variant": row.contender.key,  # the word of the first results files
        "label": row.contender.label,
        "precision": row.contender.precision,
        "device": result.options.device,
        "drop": row.contender.drop,
        "batch": row.shape.batch,
        "length": row.shape.length,
        "failure": row.failure,
        **{name: None if row.stats is None else getattr(row.stats, name) for name in Stats.__dataclass_fields__},
        "reference": None if reference is None else reference.contender.key,
        "max_difference": row.difference,
        "matrix_flops": dict(row.flops),
        "peak_share": row.peak_share,
        "peak_gflops": {peak.gemm.precision: round(peak.rate / 1e9, 1) for peak in result.peaks(row.shape)},
        "first_call_seconds": row.first_call,
        "file_bytes": row.prepared.file_bytes if row.prepared else None,
        "export_seconds": row.prepared.export_seconds if row.prepared else None,
        "device_memory_bytes": result.memory.get(row.contender.key),
        "gpu_after": result.clocks.get(str(row.shape)),
        "rounds": len(row.times),
        "times_ms": _milliseconds(row.times),
        "model": result.candidate.description,
        "machine": {**asdict(machine), "bf16": machine.bf16, "vnni": machine.vnni, "amx": machine.amx},
        "command": " ".join(("python -m benchmarks", *result.options.arguments)),
        "seed": result.options.seed,
        "date": result.date.isoformat(timespec="seconds"),
    }


def _gemm_record(row: GemmRow) -> dict[str, Any]:
    return {
        "gemm": row.gemm.name,
        **asdict(row.gemm),
        "batch": row.shape.batch,
        "length": row.shape.length,
        "gflops": row.rate / 1e9,
        "fastest": row.fastest,
        "times_ms": _milliseconds(row.times),
    }


def _milliseconds(times: Sequence[float]) -> list[float]:
    return [round(1e3 * seconds, 4) for seconds in times]


def print_result(result: Result, console: Console) -> None:
    """Print a table per shape, the sizes on disk, and notes on the columns."""
    console.print(f"\n[bold]{result.candidate.title}[/bold]", highlight=False)
    console.print(result.machine.sentence(), highlight=False)
    for shape in result.options.shapes:
        console.print(_table(result, shape))
        console.print(f"peak: {peak_sentence(result, shape)}", highlight=False)
    console.print(_sizes(result))
    for note in _notes(result):
        console.print(f"- {note}", highlight=False)


def _table(result: Result, shape: Shape) -> Table:
    rows, reference = result.at(shape), result.reference(shape)
    rounds = max(len(row.times) for row in rows)
    texts = f"{shape.batch} text{'s' if shape.batch > 1 else ''} of {shape.length} tokens"
    table = Table(title=f"{texts}, {len(result.candidate.tasks)} tasks each; {rounds} rounds")
    for column in (
        "contender",
        "median ms",
        "p95 ms",
        "answers/s",
        "saved",
        "throughput",
        "vs Parallel",
        "of peak",
        "max diff",
        *(["GPU MB"] if result.memory else []),
    ):
        table.add_column(column, justify="left" if column == "contender" else "right", max_width=_LONGEST_LABEL)
    for row in rows:
        style = "bold green" if row.contender.family == "ours" else None
        if row.stats is None:
            missing = (row.failure or "").startswith("missing")
            text = f"{row.contender.label}\n{row.failure}" if missing else f"{row.contender.label}\nfailed: {row.failure}"
            table.add_row(text, *["-"] * (len(table.columns) - 1), style="dim" if missing else "red")
            continue
        stats = row.stats
        table.add_row(
            row.contender.label + (" *" if row is reference else ""),
            _shown_ms(stats.median_ms),
            _shown_ms(stats.p95_ms),
            f"{stats.answers_per_second:,.0f}",
            "-" if stats.time_saved is None else f"{100 * stats.time_saved:.0f} %",
            "-" if stats.throughput_ratio is None else f"{stats.throughput_ratio:.2f} x",
            "-" if stats.versus_parallel is None else f"{stats.versus_parallel:.2f} x",
            "-" if row.peak_share is None else f"{100 * row.peak_share:.0f} %",
            f"{row.difference:.0e}",
            *([f"{result.memory.get(row.contender.key, 0) / 1e6:,.0f}"] if result.memory else []),
            style=style,
        )
    return table


def _shown_ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.2f}"


def peak_sentence(result: Result, shape: Shape) -> str:
    """Return the fastest single product of each precision as text."""
    return ", ".join(f"{peak.gemm.name} at {peak.rate / 1e9:,.0f} GFLOP/s" for peak in result.peaks(shape))


def _sizes(result: Result) -> Table:
    table = Table(title="on disk")
    for column in ("contender", "graphs and weights", "export"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for row in result.at(result.options.shapes[0]):
        if row.prepared is not None and row.prepared.file_bytes is not None:
            table.add_row(
                row.contender.label, f"{row.prepared.file_bytes / 1e6:,.1f} MB", f"{row.prepared.export_seconds:.1f} s"
            )
    return table


def _notes(result: Result) -> list[str]:
    machine, options = result.machine, result.options
    notes = [
        "fp32 unless stated otherwise; answers are texts x tasks; a negative saving is a loss",
        "* is the fastest eager contender with the same drop: saved = 1 - t / t*, throughput = t* / t, medians over rounds",
        "max diff is to PyTorch task by task with the same drop; fp32 must agree to 1e-3, other precisions are only reported",
        "of peak: (time of the graph's matrix products at the peak rate of their precision) / (measured time); the peak is the "
        "fastest single product of PyTorch and ONNX Runtime, as rows x inner size x columns, timed in the same rounds",
        "one file per task: each structure is traced once, nothing is verified; "
        + ("the same holds for our exports" if options.device == "cuda" else "the time of our export includes verification"),
    ]
    if options.device == "cuda":
        notes += _cuda_notes(result)
    if result.candidate.plan.drop:
        notes.append("no drop uses the adapters of all layers: it is the unpruned model, and its outputs differ")
    if options.device == "cpu" and machine.flags and not machine.bf16:
        notes.append("this CPU has no bf16 instructions (neither avx512_bf16 nor amx_bf16): bf16 is emulated and slow")
    if not options.compile:
        notes.append(
            "torch.compile was omitted "
            + ("(--quick); run without --quick to include it" if options.quick else "(--no-compile)")
        )
    compiled = [row for row in result.rows if row.contender.family == "compile" and row.first_call is not None]
    notes += [
        f"{row.contender.label} at {row.shape}: the first call, with compilation, took {row.first_call:.1f} s"
        for row in compiled
    ]
    if machine.busy:
        found = f"load average {machine.load:.1f} in the last minute" if machine.gpu is None else "other work on the GPU"
        notes.append(f"the machine was not idle: {found}; do not quote these times")
    return notes


def _cuda_notes(result: Result) -> list[str]:
    """Return what holds on a GPU only."""
    compiled = ", ".join(map(str, result.options.compile_shapes))
    notes = [
        "PyTorch and the bound contenders of ONNX Runtime find their inputs on the GPU; a call ends when the logits of all "
        "tasks are on the host, copied at once; runtime.load().run() takes and returns arrays on the host",
        f"fp32 is computed without TF32; torch.compile: reduce-overhead, that is CUDA graphs, at {compiled}",
        "on the GPU, only PyTorch computes the single products; the times contain the launches of all kernels",
        "GPU MB: growth of the used memory from before a contender's preparation to after its first call at the largest shape",
    ]
    notes += [
        f"after the rounds at {shape}: SM clock {gpu.get('sm_mhz')} MHz, {gpu.get('power_w')} W, {gpu.get('temperature_c')} C"
        for shape, gpu in result.clocks.items()
    ]
    return notes
