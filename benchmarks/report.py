"""The result of a run as tables for people and as JSON lines for programs."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .cli import Options, Shape
from .machine import Machine
from .models import Subject
from .rounds import Stats
from .variant import Prepared, Variant

_LONGEST_LABEL = 36  # characters; the reason of a failure wraps


@dataclass(frozen=True)
class Row:
    """One variant at one shape.

    Attributes:
        prepared: sizes and export time; None where the variant could not be made ready.
        stats: None where the variant failed.
        times: seconds of each round.
        difference: max |logits - PyTorch task by task at the same drop|.
        first_call: seconds of the very first call, which compiles where something is compiled.
        failure: why there are no numbers, in one line.
    """

    variant: Variant
    shape: Shape
    prepared: Prepared | None
    stats: Stats | None = None
    times: tuple[float, ...] = ()
    difference: float | None = None
    first_call: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Result:
    """Everything that one run found."""

    subject: Subject
    machine: Machine
    options: Options
    date: datetime.datetime
    rows: tuple[Row, ...]

    def at(self, shape: Shape) -> tuple[Row, ...]:
        """The rows of one shape."""
        return tuple(row for row in self.rows if row.shape == shape)

    def reference(self, shape: Shape) -> Row | None:
        """The fastest eager variant at the same drop, which all others are compared with."""
        ran = [row for row in self.at(shape) if row.variant.family == "eager" and row.variant.drop == self.subject.plan.drop]
        return min((row for row in ran if row.stats), key=lambda row: row.stats.median_ms if row.stats else 0.0, default=None)


def write_jsonl(result: Result, path: Path) -> None:
    """One line per variant and shape, each complete in itself."""
    path.write_text("".join(json.dumps(_record(result, row)) + "\n" for row in result.rows), encoding="utf-8")


def _record(result: Result, row: Row) -> dict[str, Any]:
    machine, reference = result.machine, result.reference(row.shape)
    return {
        "variant": row.variant.key,
        "label": row.variant.label,
        "precision": row.variant.precision,
        "drop": row.variant.drop,
        "batch": row.shape.batch,
        "length": row.shape.length,
        "failure": row.failure,
        **{name: None if row.stats is None else getattr(row.stats, name) for name in Stats.__dataclass_fields__},
        "reference": None if reference is None else reference.variant.key,
        "max_difference": row.difference,
        "first_call_seconds": row.first_call,
        "file_bytes": row.prepared.file_bytes if row.prepared else None,
        "export_seconds": row.prepared.export_seconds if row.prepared else None,
        "rounds": len(row.times),
        "times_ms": [round(1e3 * seconds, 4) for seconds in row.times],
        "model": result.subject.description,
        "machine": {**asdict(machine), "bf16": machine.bf16, "vnni": machine.vnni, "amx": machine.amx},
        "command": " ".join(("python -m benchmarks", *result.options.arguments)),
        "seed": result.options.seed,
        "date": result.date.isoformat(timespec="seconds"),
    }


def print_result(result: Result, console: Console) -> None:
    """A table per shape, then sizes and what one has to know to read them."""
    console.print(f"\n[bold]{result.subject.title}[/bold]", highlight=False)
    console.print(result.machine.sentence(), highlight=False)
    for shape in result.options.shapes:
        console.print(_table(result, shape))
    console.print(_sizes(result))
    for note in _notes(result):
        console.print(f"- {note}", highlight=False)


def _table(result: Result, shape: Shape) -> Table:
    rows, reference = result.at(shape), result.reference(shape)
    rounds = max(len(row.times) for row in rows)
    texts = f"{shape.batch} text{'s' if shape.batch > 1 else ''} of {shape.length} tokens"
    table = Table(title=f"{texts}, {len(result.subject.tasks)} tasks each; {rounds} rounds")
    for column in (
        "variant",
        "median ms",
        "p95 ms",
        "answers / s",
        "time saved",
        "throughput",
        "vs Parallel",
        "max diff",
    ):
        table.add_column(column, justify="left" if column == "variant" else "right", max_width=_LONGEST_LABEL)
    for row in rows:
        style = "bold green" if row.variant.family == "ours" else None
        if row.stats is None:
            table.add_row(f"{row.variant.label}\nfailed: {row.failure}", *["-"] * 7, style="red")
            continue
        stats = row.stats
        table.add_row(
            row.variant.label + (" *" if row is reference else ""),
            f"{stats.median_ms:.1f}",
            f"{stats.p95_ms:.1f}",
            f"{stats.answers_per_second:,.0f}",
            "-" if stats.time_saved is None else f"{100 * stats.time_saved:.0f} %",
            "-" if stats.throughput_ratio is None else f"{stats.throughput_ratio:.2f} x",
            "-" if stats.versus_parallel is None else f"{stats.versus_parallel:.2f} x",
            f"{row.difference:.0e}",
            style=style,
        )
    return table


def _sizes(result: Result) -> Table:
    table = Table(title="on disk")
    for column in ("variant", "graphs and weights", "export"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in result.at(result.options.shapes[0]):
        if row.prepared is not None and row.prepared.file_bytes is not None:
            table.add_row(row.variant.label, f"{row.prepared.file_bytes / 1e6:,.1f} MB", f"{row.prepared.export_seconds:.1f} s")
    return table


def _notes(result: Result) -> list[str]:
    machine, options = result.machine, result.options
    notes = [
        "fp32 where nothing else is said; answers are texts x tasks; a negative time saved is time lost",
        "* is the fastest eager variant with the same drop: time saved = 1 - t / t*, throughput = t* / t, medians over rounds",
        "max diff is to PyTorch task by task with the same drop; fp32 has to agree to 1e-3, the others are only reported",
        "one file per task: each structure is traced once, nothing is verified; the time of our export includes verification",
    ]
    if result.subject.plan.drop:
        notes.append("no drop answers with the adapters of all layers: it is the unpruned model, with answers of its own")
    if machine.flags and not machine.bf16:
        notes.append(
            "this processor has no bf16 instructions (neither avx512_bf16 nor amx_bf16): bf16 is emulated and slow here"
        )
    if not options.compile:
        notes.append(
            "torch.compile was left out " + ("(--quick); the run without --quick has it" if options.quick else "(--no-compile)")
        )
    compiled = [row for row in result.rows if row.variant.family == "compile" and row.first_call is not None]
    notes += [
        f"{row.variant.label} at {row.shape}: the first call, which compiles, took {row.first_call:.1f} s" for row in compiled
    ]
    if machine.busy:
        notes.append(f"the machine was not idle: load {machine.load:.1f} in the minute before; do not quote these times")
    return notes
