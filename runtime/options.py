"""What a service may tune. The defaults are safe everywhere and right to fp32; docs/runtime.md has what each one costs."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from runtime.errors import InputError

ConvSearch = Literal["DEFAULT", "HEURISTIC", "EXHAUSTIVE"]
Hint = Literal["f32", "bf16", "f16"]

_LOGGER = logging.getLogger("runtime.progress")


def log_progress(line: str) -> None:
    """Log a progress message at level INFO, the default of `Options.progress`."""
    _LOGGER.info(line)


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """For provider "cuda" and, but for `conv_search` and `graphs`, for the parts that "tensorrt" leaves to CUDA.

    `device`: index of the GPU; `memory_limit`: bytes of the arena, None = all; `tf32`: round fp32 matrix products to 10 bits,
    faster and outside the fp32 parity bound; `conv_search`: how cuDNN chooses, where EXHAUSTIVE searches anew at every new
    shape; `graphs`: shapes (batch, sequence) whose first run is captured as a CUDA graph that later runs replay. `predict`
    pads its batches to them; other shapes run without a graph.
    """

    device: int = 0
    memory_limit: int | None = None
    tf32: bool = False
    conv_search: ConvSearch = "HEURISTIC"
    graphs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """For provider "tensorrt". One engine serves shapes from 1 x 1 to `largest` and is tuned for `best`: (batch, sequence),
    sequence None = the model's maximum, and 512 where it has none. `fp16`, `bf16`: let TensorRT choose
    16 bits per layer, None = as the bundle was exported.
    `workspace`: bytes that the build may use, None = all. Engines and timings are kept in `Options.cache`."""

    best: tuple[int, int] = (8, 128)
    largest: tuple[int, int | None] = (32, None)
    fp16: bool | None = None
    bf16: bool | None = None
    workspace: int | None = None


@dataclass(frozen=True, kw_only=True)
class OpenVINOOptions:
    """For provider "openvino". `device`: OpenVINO's name, say CPU or GPU; `precision`: what it computes floats in, None =
    "bf16" for a bundle of `--precision bf16`, and for one of int8 where the CPU has instructions for it; else "f32". Without
    such instructions "bf16" is slow. Compiled graphs are kept in `Options.cache`."""

    device: str = "CPU"
    precision: Hint | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How sessions are made.

    `threads`: threads within one operation, None = one per physical core; `spin`: whether idle threads wait actively, which is
    faster alone and slower where processes share cores; `memory_limit`: bytes of the CPU arena that all sessions of the process
    share, packed weights of their own included, None = no limit; one for the process, and ONNX Runtime 1.32 ignores a limit
    that those weights exceed; `share_weights`: variants on the CPU read one copy of the
    packed weights from a file instead of packing their own; `cache`: folder for what is made for this machine (packed weights,
    TensorRT engines, OpenVINO blobs), None = nothing outlives the predictor; `progress`: told about work that takes seconds.

    Raises:
        InputError: names every field that is out of range.
    """

    threads: int | None = None
    spin: bool = True
    memory_limit: int | None = None
    share_weights: bool = True
    cache: str | os.PathLike[str] | None = None
    progress: Callable[[str], None] = log_progress
    cuda: CudaOptions = field(default_factory=CudaOptions)
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)
    openvino: OpenVINOOptions = field(default_factory=OpenVINOOptions)

    def __post_init__(self) -> None:
        if problems := list(_faults(self)):
            raise InputError("options: " + "; ".join(problems))


def _faults(options: Options) -> Iterator[str]:
    numbers = {
        "threads": options.threads,
        "memory_limit": options.memory_limit,
        "cuda.memory_limit": options.cuda.memory_limit,
        "tensorrt.workspace": options.tensorrt.workspace,
    }
    for name, value in numbers.items():
        if value is not None and not _positive(value):
            yield f"{name}: expected a positive integer or None, found {value!r}"
    if not isinstance(options.cuda.device, int) or options.cuda.device < 0:
        yield f"cuda.device: expected the index of a GPU, found {options.cuda.device!r}"
    for name, choice, choices in (
        ("cuda.conv_search", options.cuda.conv_search, get_args(ConvSearch)),
        # None leaves it to the bundle
        ("openvino.precision", options.openvino.precision or get_args(Hint)[0], get_args(Hint)),
    ):
        if choice not in choices:
            yield f"{name}: expected one of {', '.join(choices)}, found {choice!r}"
    for shape in options.cuda.graphs:
        if len(shape) != 2 or not all(map(_positive, shape)):
            yield f"cuda.graphs: expected pairs (batch, sequence) of positive integers, found {shape!r}"
    best, largest = options.tensorrt.best, options.tensorrt.largest
    if len(best) != 2 or not all(map(_positive, best)):
        yield f"tensorrt.best: expected (batch, sequence), both positive, found {best!r}"
    elif len(largest) != 2 or not _positive(largest[0]) or not (largest[1] is None or _positive(largest[1])):
        yield f"tensorrt.largest: expected (batch, sequence or None), both positive, found {largest!r}"
    elif best[0] > largest[0] or (largest[1] is not None and best[1] > largest[1]):
        yield f"tensorrt.best: expected at most tensorrt.largest {largest!r}, found {best!r}"


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
