"""One run of the main benchmark: build the model, prepare the variants, check them, time them, report."""

from __future__ import annotations

import datetime
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from benchmarks.gemm import Gemm, gemms, matrix_flops, peak_share, peaks
from benchmarks.machine import current_machine
from benchmarks.models import Candidate, example, random_bert
from benchmarks.onnx_variants import onnx_variants
from benchmarks.options import Options, Shape
from benchmarks.plot import plot
from benchmarks.report import GemmRow, Result, Row, print_result, write_jsonl
from benchmarks.rounds import measure, rounds_within, summarize, timed
from benchmarks.torch_variants import task_by_task, torch_variants
from benchmarks.variant import Call, Feeds, MismatchError, Outputs, Precision, Prepared, Variant, max_difference, one_line
from exporter import ExportError
from exporter.models.inputs import SEQUENCE
from exporter.models.quiet_libraries import quiet
from exporter.verify.random_inputs import make_inputs

# fp32 results differ by the order of additions; the outputs of different tasks differ by tenths.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class _TimeLimits:
    """Time limit of a run in seconds, and the smallest and largest number of rounds per shape."""

    seconds: float
    least: int
    most: int


_DEFAULT = _TimeLimits(600.0, 5, 100)
_QUICK = _TimeLimits(30.0, 3, 50)


def run(options: Options) -> Result:
    """Run the benchmark, write the results and print the tables.

    Args:
        options: options of the run.

    Returns:
        The result, which is also written to `options.output`.

    Raises:
        MismatchError: the outputs of an fp32 variant differ from PyTorch.
        ExportError: the model or a shape cannot be measured.
    """
    start = time.monotonic()
    machine = current_machine(options.threads)
    limits = _QUICK if options.quick else _DEFAULT
    torch.set_num_threads(options.threads)
    with quiet(), tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        candidate = _candidate(options)
        _check_shapes(options.shapes, candidate)
        options.output.mkdir(parents=True, exist_ok=True)
        variants = torch_variants(candidate, options.compile) + onnx_variants(candidate, Path(folder), options.threads)
        bench = _prepare(candidate, variants, options.seed)
        rows: list[Row] = []
        products: list[GemmRow] = []
        # All variants are checked and compiled before the first shape is timed.
        checked = [_check(bench, shape) for shape in options.shapes]
        for done, (shape, runnable) in enumerate(zip(options.shapes, checked, strict=True)):
            products_to_time = _single_products(bench, shape, runnable, options.threads)
            one_round = _warm_up(
                [*(item.call for item in runnable.ready.values()), *(item.call for item in products_to_time.values())]
            )
            left = limits.seconds - (time.monotonic() - start)
            affordable = rounds_within(left / (len(options.shapes) - done), one_round, limits.least, limits.most)
            found = _measure_shape(bench, shape, runnable, products_to_time, options.rounds or affordable)
            rows += found[0]
            products += found[1]
    result = Result(candidate, machine, options, datetime.datetime.now(datetime.UTC), tuple(rows), tuple(products))
    # Written before anything is printed, so that a closed pipe does not lose the results.
    stem = options.output / f"{options.name}-{result.date:%Y%m%d}"
    written = (stem.with_suffix(".jsonl"), stem.with_suffix(".png"))
    write_jsonl(result, written[0])
    plot(result, written[1])
    print_result(result, Console() if sys.stdout.isatty() else Console(width=128))
    print("wrote " + " and ".join(map(str, written)))
    return result


def _candidate(options: Options) -> Candidate:
    print("building the model …", file=sys.stderr, flush=True)
    if options.quick:
        return example(options.drop)
    return random_bert(options.layers, options.hidden, options.tasks, options.drop, options.seed)


def _check_shapes(shapes: Sequence[Shape], candidate: Candidate) -> None:
    longest = candidate.plan.max_lengths.get(SEQUENCE, math.inf)
    if too_long := [str(shape) for shape in shapes if shape.length > longest]:
        raise ExportError(f"--shapes: the model supports at most {longest} tokens, found {', '.join(too_long)}")


@dataclass(frozen=True)
class _Bench:
    """All variants: those that were prepared, and the reasons for those that failed."""

    candidate: Candidate
    variants: Sequence[Variant]
    seed: int
    prepared: dict[str, Prepared]
    failures: dict[str, str]


def _prepare(candidate: Candidate, variants: Sequence[Variant], seed: int) -> _Bench:
    bench = _Bench(candidate, variants, seed, {}, {})
    for variant in variants:
        print(f"preparing {variant.label} …", file=sys.stderr, flush=True)
        try:
            bench.prepared[variant.key] = variant.prepare()
        except Exception as error:  # libraries raise any exception; the table shows the reason
            bench.failures[variant.key] = one_line(error)
    return bench


@dataclass(frozen=True)
class _Checked:
    """A call that ran once.

    Attributes:
        call: the call.
        first: seconds of the first call.
        difference: largest absolute difference from PyTorch task by task.
        flops: precision -> operations of its matrix products; empty if they cannot be counted.
    """

    call: Call
    first: float
    difference: float
    flops: dict[Precision, int]


@dataclass(frozen=True)
class _Runnable:
    """The variants that run at one shape, and the reasons for those that failed."""

    ready: dict[str, _Checked]
    failures: dict[str, str]


def _warm_up(calls: Sequence[Call]) -> float:
    """Run every call twice and return the expected seconds of one round."""
    for call in calls:
        call()
    return sum(timed(call)[1] for call in calls)


@dataclass(frozen=True)
class _RepeatedProduct:
    """A call that computes a single matrix product `repeats` times."""

    call: Call
    repeats: int


def _single_products(bench: _Bench, shape: Shape, runnable: _Runnable, threads: int) -> dict[Gemm, _RepeatedProduct]:
    """Return the matrix products that define the peak rate.

    They are the products of the feed-forward layer, for the rows of the texts and for the rows of all tasks, each repeated
    until it has about the number of operations of a graph.
    """
    precisions = {variant.precision: None for variant in bench.variants if variant.key in runnable.ready}
    hidden, rows = int(bench.candidate.description["hidden"]), shape.batch * shape.length
    sizes = [(count, hidden, 4 * hidden) for count in (rows, rows * len(bench.candidate.tasks))]
    flops = max((sum(item.flops.values()) for item in runnable.ready.values()), default=0)
    found = {}
    for gemm in gemms(precisions, sizes):
        repeats = gemm.repeats(flops)
        found[gemm] = _RepeatedProduct(gemm.bind(threads, repeats), repeats)
    return found


def _measure_shape(
    bench: _Bench, shape: Shape, runnable: _Runnable, products_to_time: Mapping[Gemm, _RepeatedProduct], rounds: int
) -> tuple[list[Row], list[GemmRow]]:
    candidate = bench.candidate
    calls = {
        **{key: item.call for key, item in runnable.ready.items()},
        **{gemm.name: item.call for gemm, item in products_to_time.items()},
    }
    with tqdm(total=rounds * len(calls), desc=f"{shape}, {rounds} rounds", file=sys.stderr, unit="run") as bar:
        times = measure(calls, rounds, bench.seed, lambda _: bar.update() and None)
    products = {gemm: [seconds / item.repeats for seconds in times.pop(gemm.name)] for gemm, item in products_to_time.items()}
    eager = [variant.key for variant in bench.variants if variant.family == "eager" and variant.drop == candidate.plan.drop]
    stats = summarize(times, eager, "parallel", shape.batch * len(candidate.tasks))
    known = peaks(products)
    reasons = {**bench.failures, **runnable.failures}
    rows = []
    for variant in bench.variants:
        item, key = runnable.ready.get(variant.key), variant.key
        if item is None:
            rows.append(Row(variant, shape, bench.prepared.get(key), failure=reasons[key]))
            continue
        share = peak_share(item.flops, times[key], known)
        ran = (stats[key], tuple(times[key]), item.difference, item.first, item.flops, share)
        rows.append(Row(variant, shape, bench.prepared[key], *ran))
    best = {peak.gemm for peak in known.values()}
    return rows, [GemmRow(gemm, shape, tuple(own), gemm in best) for gemm, own in products.items()]


def _check(bench: _Bench, shape: Shape) -> _Runnable:
    """Run every variant once and compare its outputs with PyTorch.

    Raises:
        MismatchError: an fp32 variant is out of tolerance; the message names all of them.
    """
    candidate = bench.candidate
    feeds: Feeds = make_inputs(candidate.plan, shape.batch, shape.length, bench.seed)
    expected: dict[int, Outputs] = {
        drop: task_by_task(candidate.model, candidate.tasks, drop)(feeds)()
        for drop in {variant.drop for variant in bench.variants}
    }
    print(f"checking the outputs at {shape} …", file=sys.stderr, flush=True)
    found = _Runnable({}, {})
    for variant in bench.variants:
        if variant.key not in bench.prepared:
            continue
        try:
            call = bench.prepared[variant.key].bind(feeds)
            outputs, seconds = timed(call)
            prepared = bench.prepared[variant.key]
            flops = {} if prepared.bundle is None else matrix_flops(prepared.bundle, shape, prepared.floats)
            difference = max_difference(outputs, expected[variant.drop])
            found.ready[variant.key] = _Checked(call, seconds, difference, flops)
        except Exception as error:  # as above
            found.failures[variant.key] = one_line(error)
    wrong = [
        f"{variant.label} at {shape}: max difference {found.ready[variant.key].difference:.1e}"
        for variant in bench.variants
        if variant.precision == "fp32" and variant.key in found.ready and not found.ready[variant.key].difference <= TOLERANCE
    ]
    if wrong:
        raise MismatchError(
            f"expected the outputs of PyTorch task by task within {TOLERANCE:.0e}; nothing was written: " + "; ".join(wrong)
        )
    return found
