"""One run of the main benchmark: build the model, prepare the contenders, check them, time them, report."""

from __future__ import annotations

import datetime
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from tqdm import tqdm

from benchmarks.checks import Bench, Runnable, check, mismatch, prepare
from benchmarks.contender import Call, Contender, MissingError, Prepared
from benchmarks.cuda_onnx import cuda_onnx_contenders
from benchmarks.cuda_torch import cuda_torch_contenders, on_device
from benchmarks.device import Device, open_device
from benchmarks.gemm import Gemm, gemms, peak_share, peaks
from benchmarks.gpu import current_gpu
from benchmarks.machine import current_machine
from benchmarks.models import Candidate, example, random_bert, twin
from benchmarks.onnx_contenders import onnx_contenders
from benchmarks.options import Options, Shape
from benchmarks.plot import plot
from benchmarks.provider_contenders import named
from benchmarks.report import GemmRow, Result, Row, print_result, write_jsonl
from benchmarks.results_file import keep_earlier
from benchmarks.rounds import measure, rounds_within, summarize, timed
from benchmarks.torch_contenders import task_by_task, torch_contenders
from exporter import ExportError
from exporter.models.inputs import SEQUENCE
from exporter.models.quiet_libraries import quiet
from runtime.ort.known_providers import Provider


@dataclass(frozen=True)
class _TimeLimits:
    """Time limit of a run, or on a GPU of a shape, in seconds, and the smallest and largest number of rounds per shape."""

    seconds: float
    least: int
    most: int


_DEFAULT = _TimeLimits(600.0, 5, 100)
_QUICK = _TimeLimits(30.0, 3, 50)
# Per shape. A call takes 0.5 to 100 ms there.
_ON_GPU = _TimeLimits(15.0, 30, 200)
_PAUSE_ON_GPU = 0.001


def run(options: Options) -> Result:
    """Run the benchmark, write the results and print the tables.

    The file of results is written again after every shape, so that a run that is stopped loses only the shape in progress.

    Args:
        options: options of the run.

    Returns:
        The result, which is also written to `options.output`.

    Raises:
        MismatchError: the outputs of an fp32 contender differ from PyTorch.
        ExportError: the model, a shape or the device cannot be measured.
    """
    start = time.monotonic()
    on_gpu = options.device == "cuda"
    gpu = current_gpu() if on_gpu else None  # as found: before this process uses it
    device = open_device(options.device, options.threads)
    providers = named(options.providers, options.device)
    options = replace(options, providers=tuple(provider.name for provider in providers))  # one spelling, for the file names
    setting = (torch.version.cuda, torch.backends.cuda.matmul.allow_tf32) if on_gpu else (None, None)
    machine = current_machine(options.threads, gpu, *setting)
    # What is imported: another distribution may be installed behind it on the path.
    machine = replace(machine, versions={**machine.versions, "onnxruntime imported": onnxruntime.__version__})
    torch.set_num_threads(options.threads)
    with quiet(), tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        candidate = _candidate(options)
        _check_shapes(options.shapes, candidate)
        options.output.mkdir(parents=True, exist_ok=True)
        date = datetime.datetime.now(datetime.UTC)
        stem = options.output / f"{options.name}-{date:%Y%m%d}"
        keep_earlier(stem.with_suffix(".jsonl"))
        result = Result(candidate, machine, options, date, (), ())
        bench = _bench(candidate, options, device, Path(folder), providers)
        # On the CPU, all contenders are checked and compiled before the first shape is timed, and a wrong one ends the run. On
        # a GPU, which may be lent for minutes, a finished shape is written first, and a wrong one is a row with its reason.
        checked = {} if on_gpu else {shape: check(bench, shape) for shape in options.shapes}
        for runnable in checked.values():
            runnable.require()
        wrong: list[str] = []
        compiling = options.compile_shapes if on_gpu and options.compile else ()
        # Shapes that take a compilation of minutes come last.
        for done, shape in enumerate(sorted(options.shapes, key=lambda shape: shape in compiling)):
            runnable = checked[shape] if shape in checked else check(bench, shape)
            wrong += runnable.wrong
            left = _ON_GPU.seconds if on_gpu else _seconds_left(options, start) / (len(options.shapes) - done)
            found = _measure_shape(bench, shape, runnable, options, left)
            after = current_gpu() if on_gpu else None
            result = replace(
                result,
                rows=tuple(sorted((*result.rows, *found[0]), key=lambda row: options.shapes.index(row.shape))),
                products=(*result.products, *found[1]),
                clocks={**result.clocks, **({} if after is None else {str(shape): after})},
                memory=bench.memory,
            )
            # Written before anything is printed, so that a closed pipe does not lose the results.
            write_jsonl(result, stem.with_suffix(".jsonl"))
    plot(result, stem.with_suffix(".png"))
    print_result(result, Console() if sys.stdout.isatty() else Console(width=128))
    print(f"wrote {stem.with_suffix('.jsonl')} and {stem.with_suffix('.png')}")
    if wrong:
        raise mismatch(wrong, "the other contenders were measured")
    return result


def _bench(candidate: Candidate, options: Options, device: Device, folder: Path, providers: Sequence[Provider]) -> Bench:
    model, tasks = candidate.model, candidate.tasks
    if options.device == "cpu":
        contenders = torch_contenders(candidate, device, options.compile) + onnx_contenders(
            candidate, folder, options.threads, providers
        )
        contenders = _without(contenders, options.skip)
        return prepare(candidate, device, contenders, options, lambda drop: task_by_task(twin(model), tasks, drop, device))
    contenders = cuda_torch_contenders(candidate, device, options.compile, options.compile_shapes)
    contenders += cuda_onnx_contenders(candidate, folder, device, options.shapes, providers)
    reference = on_device(model, device, "fp32")
    contenders = _without(contenders, options.skip)
    return prepare(candidate, device, contenders, options, lambda drop: task_by_task(reference, tasks, drop, device))


def _without(contenders: Sequence[Contender], skip: Sequence[str]) -> list[Contender]:
    """Replace the omitted contenders by rows with that reason."""
    known = [contender.key for contender in contenders]
    if unknown := [key for key in skip if key not in known]:
        raise ExportError(f"--skip: expected some of {', '.join(known)}, found {', '.join(unknown)}")

    def omitted() -> Prepared:
        raise MissingError("omitted (--skip)")

    return [replace(contender, prepare=omitted) if contender.key in skip else contender for contender in contenders]


def _seconds_left(options: Options, start: float) -> float:
    return (_QUICK if options.quick else _DEFAULT).seconds - (time.monotonic() - start)


def _candidate(options: Options) -> Candidate:
    print("building the model …", file=sys.stderr, flush=True)
    if options.quick:
        return example(options.drop)
    return random_bert(options.layers, options.hidden, options.tasks, options.drop, options.seed)


def _check_shapes(shapes: Sequence[Shape], candidate: Candidate) -> None:
    longest = candidate.plan.max_lengths.get(SEQUENCE, math.inf)
    if too_long := [str(shape) for shape in shapes if shape.length > longest]:
        raise ExportError(f"--shapes: the model supports at most {longest} tokens, found {', '.join(too_long)}")


def _warm_up(calls: Sequence[Call], count: int) -> float:
    """Run every call `count` times and return the expected seconds of one round."""
    for call in calls:
        for _ in range(count - 1):
            call()
    return sum(timed(call)[1] for call in calls)


@dataclass(frozen=True)
class _RepeatedProduct:
    """A call that computes a single matrix product `repeats` times."""

    call: Call
    repeats: int


def _single_products(bench: Bench, shape: Shape, runnable: Runnable, options: Options) -> dict[Gemm, _RepeatedProduct]:
    """Return the matrix products that define the peak rate.

    They are the products of the feed-forward layer, for the rows of the texts and for the rows of all tasks, each repeated
    until it has about the number of operations of a graph.
    """
    precisions = {contender.precision: None for contender in bench.contenders if contender.key in runnable.ready}
    hidden, rows = int(bench.candidate.description["hidden"]), shape.batch * shape.length
    sizes = [(count, hidden, 4 * hidden) for count in (rows, rows * len(bench.candidate.tasks))]
    flops = max((sum(item.flops.values()) for item in runnable.ready.values()), default=0)
    found = {}
    for gemm in gemms(precisions, sizes, bench.device.name):
        repeats = gemm.repeats(flops)
        found[gemm] = _RepeatedProduct(gemm.bind(options.threads, repeats), repeats)
    return found


def _measure_shape(
    bench: Bench, shape: Shape, runnable: Runnable, options: Options, seconds: float
) -> tuple[list[Row], list[GemmRow]]:
    """Time all contenders at one shape, for about `seconds` if the options give no number of rounds."""
    candidate, on_gpu = bench.candidate, options.device == "cuda"
    products_to_time = _single_products(bench, shape, runnable, options)
    calls = {
        **{key: item.call for key, item in runnable.ready.items()},
        **{gemm.name: item.call for gemm, item in products_to_time.items()},
    }
    one_round = _warm_up(list(calls.values()), bench.device.warm_calls)
    limits = _ON_GPU if on_gpu else _QUICK if options.quick else _DEFAULT
    rounds = options.rounds or rounds_within(seconds, one_round, limits.least, limits.most)
    pause = {"pause": _PAUSE_ON_GPU} if on_gpu else {}
    what = f"{shape}, {rounds} rounds"
    with tqdm(total=rounds * len(calls), desc=what, file=sys.stderr, unit="run", mininterval=5 if on_gpu else 0.1) as bar:
        times = measure(calls, rounds, bench.seed, lambda _: bar.update() and None, **pause)
    products = {gemm: [seconds / item.repeats for seconds in times.pop(gemm.name)] for gemm, item in products_to_time.items()}
    eager = [
        contender.key for contender in bench.contenders if contender.family == "eager" and contender.drop == candidate.plan.drop
    ]
    stats = summarize(times, eager, "parallel", shape.batch * len(candidate.tasks))
    known = peaks(products)
    reasons = {**bench.failures, **runnable.failures}
    rows = []
    for contender in bench.contenders:
        item, key = runnable.ready.get(contender.key), contender.key
        if item is None:
            rows.append(Row(contender, shape, bench.prepared.get(key), failure=reasons[key]))
            continue
        share = peak_share(item.flops, times[key], known)
        ran = (stats[key], tuple(times[key]), item.difference, item.first, item.flops, share)
        rows.append(Row(contender, shape, bench.prepared[key], *ran))
    best = {peak.gemm for peak in known.values()}
    return rows, [GemmRow(gemm, shape, tuple(own), gemm in best) for gemm, own in products.items()]
