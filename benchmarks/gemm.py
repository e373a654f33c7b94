"""Peak rate of matrix products on this machine, the upper bound for a graph, measured in the same rounds."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contender import Call, Outputs, Precision
from benchmarks.options import Shape
from benchmarks.ort_options import session_options
from exporter.inspect import inspect_bundle

Library = Literal["PyTorch", "ONNX Runtime"]

# Rows, inner size and columns of a product that uses the whole device, independent of the model.
_LARGE = {"cpu": (1024, 2048, 2048), "cuda": (8192, 8192, 8192)}
# Largest number of operations in one timed call.
_MOST_FLOPS = {"cpu": 40_000_000_000, "cuda": 1_200_000_000_000}


@dataclass(frozen=True)
class Gemm:
    """A single matrix product, [rows, inner] x [inner, columns], with a constant second factor, like a weight.

    int8 is uint8 x int8 in ONNX Runtime and int8 x int8 in PyTorch, accumulated in int32, without scales.

    Attributes:
        library: library that computes the product.
        precision: type of the factors.
        rows: rows of the first factor.
        inner: columns of the first factor.
        columns: columns of the second factor.
        device: "cpu" or "cuda".
    """

    library: Library
    precision: Precision
    rows: int
    inner: int
    columns: int
    device: str = "cpu"

    @property
    def flops(self) -> int:
        """Number of operations; a multiplication and an addition count as two."""
        return 2 * self.rows * self.inner * self.columns

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"{self.library} {self.precision} {self.rows}x{self.inner}x{self.columns}"

    def repeats(self, flops: int) -> int:
        """Return the number of products in one call, for about `flops` operations.

        A single product would be timed with cold caches and sleeping threads, and a graph could exceed that rate.
        """
        return max(1, min(flops, _MOST_FLOPS[self.device]) // self.flops)

    def bind(self, threads: int, repeats: int = 1) -> Call:
        """Return the call to time; the number of torch's threads must be set before."""
        multiply = self._multiply(threads)

        def call() -> Outputs:
            for _ in range(repeats):
                multiply()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return []

        return call

    def _multiply(self, threads: int) -> Callable[[], object]:
        if self.device == "cuda":  # at this size, random numbers of the CPU take seconds
            kind = _type(self.precision)
            x = torch.randn(self.rows, self.inner, device="cuda").to(kind)
            weight = torch.randn(self.columns, self.inner, device="cuda").to(kind)
            return _torch_product(x, weight, self.precision)
        left = np.random.default_rng(0).standard_normal((self.rows, self.inner), np.float32)
        right = np.random.default_rng(1).standard_normal((self.inner, self.columns), np.float32)
        if self.library == "PyTorch":
            return _bind_torch(left, right, self.precision)
        return _bind_onnx(left, right, self.precision, threads)


@dataclass(frozen=True)
class Peak:
    """The fastest product of one precision.

    Attributes:
        gemm: the product.
        rates: operations per second in each round.
    """

    gemm: Gemm
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Median rate over the rounds, in operations per second."""
        return statistics.median(self.rates)


def gemms(precisions: Iterable[Precision], shapes: Iterable[tuple[int, int, int]], device: str = "cpu") -> list[Gemm]:
    """Return the products to measure: every library that supports a precision, at a large shape and at `shapes`.

    Args:
        precisions: precisions of the contenders.
        shapes: rows, inner size and columns of further products.
        device: "cpu" or "cuda"; on a GPU, PyTorch computes them.
    """
    return [
        Gemm(library, precision, *shape, device)
        for precision in precisions
        for library in (_libraries(precision) if device == "cpu" else _ON_GPU)
        for shape in dict.fromkeys((_LARGE[device], *shapes))
    ]


def peaks(times: Mapping[Gemm, Sequence[float]]) -> dict[Precision, Peak]:
    """Return the product with the highest median rate of each precision; `times`: seconds of each round."""
    found: dict[Precision, Peak] = {}
    for gemm, own in times.items():
        peak = Peak(gemm, tuple(gemm.flops / seconds for seconds in own))
        if gemm.precision not in found or peak.rate > found[gemm.precision].rate:
            found[gemm.precision] = peak
    return found


def matrix_flops(bundle: Path, shape: Shape, floats: Precision) -> dict[Precision, int]:
    """Count the operations of the matrix products of an exported graph exactly.

    Args:
        bundle: exported folder.
        shape: shape of the inputs.
        floats: precision in which products of floats are computed.

    Returns:
        Precision -> number of operations; empty if a shape in the graph is unknown, because a partial count is misleading.
    """
    names: dict[str, Precision] = {"float32": floats, "float16": "fp16", "int8": "int8"}
    return {names[kind]: count for kind, count in _products(bundle, shape).items()}


@functools.cache
def _products(bundle: Path, shape: Shape) -> Mapping[str, int]:
    graph = inspect_bundle(bundle, (shape.batch, shape.length)).graphs[0]
    return {} if graph.uncounted else graph.products


def peak_share(flops: Mapping[Precision, int], times: Sequence[float], known: Mapping[Precision, Peak]) -> float | None:
    """Compute the fraction of the machine's peak rate that a graph reaches.

    Args:
        flops: precision -> operations of a graph's matrix products.
        times: seconds of each round.
        known: precision -> its peak, in the same rounds.

    Returns:
        The median over the rounds of (time of the products at the peak rate) / (measured time); None if a peak is unknown or
        nothing was counted.
    """
    if not flops or any(precision not in known for precision in flops):
        return None
    least = [sum(count / known[kind].rates[number] for kind, count in flops.items()) for number in range(len(times))]
    return statistics.median(bound / taken for bound, taken in zip(least, times, strict=True))


_ON_GPU: tuple[Library, ...] = ("PyTorch",)  # both libraries call cuBLAS there


def _libraries(precision: Precision) -> tuple[Library, ...]:
    # ONNX Runtime has no CPU kernels for 16-bit floats.
    return ("PyTorch",) if precision in ("bf16", "fp16", "tf32") else ("PyTorch", "ONNX Runtime")


def _integers(values: npt.NDArray[np.float32], kind: type[np.int8] | type[np.uint8]) -> npt.NDArray[np.int8 | np.uint8]:
    scaled = np.clip(32 * values, -127, 127).astype(np.int8)
    return scaled if kind is np.int8 else (scaled.astype(np.int16) + 128).astype(np.uint8)


def _type(precision: Precision) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def _torch_product(x: torch.Tensor, weight: torch.Tensor, precision: Precision) -> Callable[[], object]:
    """Return a product; `weight` has the layout of the weight of a Linear."""

    def multiply() -> torch.Tensor:
        if precision != "tf32":
            return torch.nn.functional.linear(x, weight)
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return torch.nn.functional.linear(x, weight)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return torch.inference_mode()(multiply)


def _bind_torch(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], precision: Precision) -> Callable[[], object]:
    if precision == "int8":
        a, b = (torch.from_numpy(_integers(values, np.int8)) for values in (left, right))

        def multiply() -> torch.Tensor:
            return torch._int_mm(a, b)  # there is no public operator for integer products without scales

        return torch.inference_mode()(multiply)
    x, weight = (torch.from_numpy(np.ascontiguousarray(values)).to(_type(precision)) for values in (left, right.T))
    return _torch_product(x, weight, precision)


def _bind_onnx(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], precision: Precision, threads: int
) -> Callable[[], object]:
    integers = precision == "int8"
    given = _integers(left, np.uint8) if integers else left
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integers else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integers else "MatMul", ["left", "right"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("left", kinds[0], left.shape)],
        [helper.make_tensor_value_info("product", kinds[1], (left.shape[0], right.shape[1]))],
        [numpy_helper.from_array(_integers(right, np.int8) if integers else right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=onnx.IR_VERSION_2023_5_5)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )

    return lambda: session.run(None, {"left": given})
