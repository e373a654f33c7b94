"""Preparation of the contenders, their first calls, and the comparison of their outputs with PyTorch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contender import (
    Bind,
    Call,
    Contender,
    Feeds,
    MismatchError,
    Outputs,
    Precision,
    Prepared,
    max_difference,
    one_line,
)
from benchmarks.device import Device
from benchmarks.gemm import matrix_flops
from benchmarks.models import Candidate
from benchmarks.options import Options, Shape
from benchmarks.rounds import timed
from exporter.targets import TOLERANCES
from exporter.verify.random_inputs import make_inputs

# fp32 results differ by the order of additions; the outputs of different tasks differ by tenths.
TOLERANCE = 1e-3
# Calls after the first one, on a GPU, whose outputs are compared too: only later calls replay a CUDA graph.
_SETTLE = 3


def tolerance_of(precision: str) -> float:
    """Return how far outputs of our own graphs may be apart, which the export has compared with PyTorch before."""
    return TOLERANCE if precision == "fp32" else TOLERANCES[precision]


@dataclass(frozen=True)
class Bench:
    """All contenders: those that were prepared, and the reasons for those that failed.

    Attributes:
        candidate: the model.
        device: the device.
        contenders: all contenders.
        seed: seed of the inputs.
        largest: the largest shape, at which memory is measured.
        reference: drop -> the reference of the check.
        prepared: key -> contender that was prepared.
        failures: key -> reason.
        memory: key -> growth of the used memory of the device by the preparation and the first call; without a GPU empty.
        weights: key -> the part of it that the preparation took.
    """

    candidate: Candidate
    device: Device
    contenders: Sequence[Contender]
    seed: int
    largest: Shape
    reference: Callable[[int], Bind]
    prepared: dict[str, Prepared]
    failures: dict[str, str]
    memory: dict[str, int]
    weights: dict[str, int]

    def feeds(self, shape: Shape) -> Feeds:
        """Return the inputs of a shape."""
        return make_inputs(self.candidate.plan, shape.batch, shape.length, self.seed)


@dataclass(frozen=True)
class Checked:
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
class Runnable:
    """The contenders that run at one shape, and the reasons for those that failed.

    Attributes:
        ready: key -> call.
        failures: key -> reason.
        wrong: contenders out of tolerance, as text; they are in `failures` too.
    """

    ready: dict[str, Checked]
    failures: dict[str, str]
    wrong: list[str]

    def require(self) -> None:
        """Raise MismatchError if a contender is wrong."""
        if self.wrong:
            raise mismatch(self.wrong, "nothing was written")


def mismatch(wrong: Sequence[str], consequence: str) -> MismatchError:
    """Return the error that names all wrong contenders."""
    expected = f"expected the outputs of PyTorch task by task within {TOLERANCE:.0e}"
    return MismatchError(f"{expected}; {consequence}: " + "; ".join(wrong))


def prepare(
    candidate: Candidate, device: Device, contenders: Sequence[Contender], options: Options, reference: Callable[[int], Bind]
) -> Bench:
    """Prepare all contenders; one that fails is left out, with its reason.

    Args:
        candidate: model to measure.
        device: the device.
        contenders: the contenders.
        options: options of the run.
        reference: drop -> the reference of the check.
    """
    largest = max(options.shapes, key=lambda shape: (shape.batch * shape.length, shape))
    bench = Bench(candidate, device, contenders, options.seed, largest, reference, {}, {}, {}, {})
    if device.name == "cuda":  # libraries allocate on first use; no contender is to pay for it
        for drop in {contender.drop for contender in contenders}:
            reference(drop)(bench.feeds(largest))()
    for contender in contenders:
        print(f"preparing {contender.label} …", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            _prepare(bench, contender)
        except Exception as error:  # libraries raise any exception; the table shows the reason
            bench.failures[contender.key] = one_line(error)
        if options.device == "cuda":
            result = bench.failures.get(contender.key, f"{time.perf_counter() - start:.1f} s")
            print(f"  {result}", file=sys.stderr, flush=True)
    return bench


def _prepare(bench: Bench, contender: Contender) -> None:
    bench.device.release()
    before = bench.device.used_memory()
    bench.prepared[contender.key] = prepared = contender.prepare()
    if before is None:
        return
    bench.weights[contender.key] = (bench.device.used_memory() or 0) - before
    if not contender.compiles:
        try:
            prepared.bind(bench.feeds(bench.largest))()
        except Exception as error:  # the check at this shape gives the reason
            print(f"  at {bench.largest}: {one_line(error)}", file=sys.stderr, flush=True)
    bench.memory[contender.key] = (bench.device.used_memory() or 0) - before


def check(bench: Bench, shape: Shape) -> Runnable:
    """Run every prepared contender and compare its outputs with PyTorch."""
    feeds = bench.feeds(shape)
    expected: dict[int, Outputs] = {
        drop: bench.reference(drop)(feeds)() for drop in {contender.drop for contender in bench.contenders}
    }
    print(f"checking the outputs at {shape} …", file=sys.stderr, flush=True)
    found = Runnable({}, {}, [])
    for contender in bench.contenders:
        if contender.key not in bench.prepared:
            continue
        try:
            checked = _first_calls(bench, contender, shape, feeds, expected[contender.drop])
        except Exception as error:  # as above
            found.failures[contender.key] = one_line(error)
            continue
        if not checked.difference <= (TOLERANCE if contender.precision == "fp32" else sys.float_info.max):
            reason = f"max difference {checked.difference:.1e}"
            found.wrong.append(f"{contender.label} at {shape}: {reason}")
            found.failures[contender.key] = f"wrong: {reason} from PyTorch task by task"
        else:
            found.ready[contender.key] = checked
    return found


def _first_calls(bench: Bench, contender: Contender, shape: Shape, feeds: Feeds, expected: Outputs) -> Checked:
    prepared, device = bench.prepared[contender.key], bench.device
    if contender.compiles:
        device.release()
    before = device.used_memory()
    call = prepared.bind(feeds)
    outputs, seconds = timed(call)
    difference = max_difference(outputs, expected)
    for _ in range(_SETTLE if device.name == "cuda" else 0):
        difference = max(difference, max_difference(call(), expected))
    if contender.compiles and before is not None:
        growth = (device.used_memory() or 0) - before
        print(f"  {contender.label}: first call {seconds:.1f} s", file=sys.stderr, flush=True)
        bench.memory[contender.key] = max(bench.memory[contender.key], bench.weights[contender.key] + growth)
    flops = {} if prepared.bundle is None else matrix_flops(prepared.bundle, shape, prepared.floats)
    return Checked(call, seconds, difference, flops)
