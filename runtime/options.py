"""Options of sessions and execution providers.

The defaults work on every machine and keep fp32 accuracy; docs/runtime.md lists the cost of each option.
"""

import difflib
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from runtime.errors import InputError

ConvSearch = Literal["DEFAULT", "HEURISTIC", "EXHAUSTIVE"]
Hint = Literal["f32", "bf16", "f16"]

# OpenVINO's default of 5,000 takes hundreds of MB more with every few hundred new shapes; docs/runtime.md has measurements.
KERNELS = 64

MOST_THREADS = 1024  # ONNX Runtime ends the process when the system refuses a thread
_MOST_BYTES = 2**63 - 1

# Limits of ONNX Runtime for the entries of its session configuration, to which options of plug-ins are added
LONGEST_KEY = 1024
LONGEST_VALUE = 8192
# Entry with the folder of the external data of a graph that is passed as bytes
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Entry with the format of graphs, and the only format whose files and operators are checked
GRAPH_FORMAT, ONNX_FORMAT = "session.load_model_format", "ONNX"

_Kind = TypeVar("_Kind")
_LOGGER = logging.getLogger("runtime.progress")


def log_progress(line: str) -> None:
    """Log a progress message at level INFO, the default of `Options.progress`."""
    _LOGGER.info(line)


def _names_fields(kind: type[_Kind]) -> type[_Kind]:
    """Let a dataclass refuse unknown fields by an InputError with the nearest one instead of a TypeError."""
    make, known = kind.__init__, [each.name for each in fields(kind)]  # type: ignore[arg-type]  # a dataclass

    @functools.wraps(make)
    def init(self: _Kind, *given: object, **named: Any) -> None:
        if problems := [_unknown_name(name, known) for name in named if name not in known]:
            raise InputError(f"{kind.__name__}: {'; '.join(problems)}")
        make(self, *given, **named)

    kind.__init__ = init  # type: ignore[method-assign, assignment]  # of a class
    return kind


def _unknown_name(name: str, known: Sequence[str]) -> str:
    """Return the message for a name that is not in `known`: the nearest one, or all of them."""
    close = difflib.get_close_matches(name, known, 1)
    return f"unknown option {name!r}; " + (f"the nearest is {close[0]}" if close else f"expected {', '.join(known)}")


@_names_fields
@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """Options of the CUDA execution provider.

    They also apply to the nodes that "tensorrt" leaves to CUDA, except for `conv_search` and `graphs`.

    Attributes:
        device: index of the GPU.
        memory_limit: size of the memory arena in bytes; None for no limit.
        tf32: round the inputs of fp32 matrix products to 10 bits: faster, but outside the fp32 parity tolerance.
        conv_search: algorithm search of cuDNN; EXHAUSTIVE searches again for every new shape.
        graphs: shapes (batch, sequence) for which `load` captures CUDA graphs; runs of these shapes replay them. `predict`
            pads its batches to these shapes; other shapes run without a CUDA graph. One thread then makes all runs of a graph
            file, one after another.
    """

    device: int = 0
    memory_limit: int | None = None
    tf32: bool = False
    conv_search: ConvSearch = "HEURISTIC"
    graphs: tuple[tuple[int, int], ...] = ()


@_names_fields
@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """Options of the TensorRT execution provider.

    One engine serves all shapes from 1 x 1 to `largest`. Engines and timings are stored in `Options.cache`.

    Attributes:
        best: shape (batch, sequence) for which the engine is optimized.
        largest: largest shape (batch, sequence); a sequence of None is the model's maximum, or 512 for a model without one.
        fp16: allow TensorRT to run layers in float16; None follows the precision of the bundle.
        bf16: allow TensorRT to run layers in bfloat16; None follows the precision of the bundle.
        workspace: memory in bytes that the engine build may use; None for no limit.
    """

    best: tuple[int, int] = (8, 128)
    largest: tuple[int, int | None] = (32, None)
    fp16: bool | None = None
    bf16: bool | None = None
    workspace: int | None = None


@_names_fields
@dataclass(frozen=True, kw_only=True)
class OpenVINOOptions:
    """Options of the OpenVINO execution provider.

    Compiled graphs are stored in `Options.cache`.

    Attributes:
        device: OpenVINO's name of the device, such as CPU or GPU.
        precision: type in which floats are computed. None selects "bf16" for a bundle exported with `--precision bf16`, and
            for an int8 bundle on a CPU with bf16 instructions; otherwise "f32". Without such instructions "bf16" is slow.
        kernels: number of kernels, each compiled for one shape of inputs, that a graph keeps on the CPU; 0 compiles them in
            every run. They take most of the memory that grows with the number of different shapes.
    """

    device: str = "CPU"
    precision: Hint | None = None
    kernels: int = KERNELS


@_names_fields
@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all sessions of a bundle.

    Attributes:
        threads: threads within one operator; None for one per physical core that the process may use by its CPU affinity and
            the quota of its control group (Linux).
        spin: whether threads that wait for others wait actively during a run. This is faster on a machine with free cores and
            slower when processes share cores. After a run none does.
        memory_limit: size in bytes of the CPU arena that all sessions of the process share, including the packed weights of
            sessions that do not share theirs; None for no limit. The limit holds for the whole process; ONNX Runtime 1.32
            ignores a limit that these weights exceed.
        share_weights: variants on the CPU read one copy of the packed weights from a file instead of packing them per session.
        cache: folder for files made for this machine (packed weights, TensorRT engines, OpenVINO blobs); None stores nothing
            beyond the lifetime of the predictor.
        progress: callback that receives a message about work that takes seconds.
        cuda: options of the CUDA execution provider.
        tensorrt: options of the TensorRT execution provider.
        openvino: options of the OpenVINO execution provider.
        provider_options: options of the provider that was requested by name, as in ONNX Runtime's documentation. They take
            precedence over those that the other fields lead to; OpenVINO's load_config is merged with them.
        probe_tolerance: limit of the difference between the logits of the provider and those of the bundle's probe, relative to
            max(1, largest absolute logit of the task); None for the bundle's, for the type in which the provider computes.
        session_config: entries of ONNX Runtime's session configuration, such as
            "mlas.enable_gemm_fastmath_arm64_bfloat16": "1". An entry that is neither known for ONNX Runtime 1.32
            nor found in the installed library is refused at load, or logged as a warning if it starts with `ep.` or the
            installed version is newer.
        compiled: use graphs of the bundle that `python -m runtime compile` made, where they fit this machine. None for those of
            OpenVINO on the CPU, which hold a graph and weights; True for all, which can hold instructions for a GPU; False for
            none.

    Raises:
        InputError: a field is unknown or out of range; the message names all such fields.
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
    provider_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    session_config: Mapping[str, str] = field(default_factory=dict, hash=False)
    probe_tolerance: float | None = None
    compiled: bool | None = None

    def __post_init__(self) -> None:
        """Check the fields of this object and of the provider options."""
        if problems := list(_problems(self)):
            raise InputError("options: " + "; ".join(problems))


def _problems(options: Options) -> Iterator[str]:
    parts = {"cuda": CudaOptions, "tensorrt": TensorRTOptions, "openvino": OpenVINOOptions}
    if wrong := [name for name, kind in parts.items() if not isinstance(getattr(options, name), kind)]:
        for name in wrong:
            yield f"{name}: expected {parts[name].__name__}(…), found {getattr(options, name)!r:.100}"
        return
    yield from _switches(options)
    numbers = {
        "threads": options.threads,
        "memory_limit": options.memory_limit,
        "cuda.memory_limit": options.cuda.memory_limit,
        "tensorrt.workspace": options.tensorrt.workspace,
    }
    for name, value in numbers.items():
        if value is not None and not _positive(value):
            yield f"{name}: expected a positive integer or None, found {value!r}"
        elif value is not None and value > (most := MOST_THREADS if name == "threads" else _MOST_BYTES):
            yield f"{name}: expected at most {most:,}, found {value:,}"
    if type(device := options.cuda.device) is not int or not 0 <= device < 2**31:
        yield f"cuda.device: expected the index of a GPU, found {device!r}"
    if type(kernels := options.openvino.kernels) is not int or not 0 <= kernels < 2**31:
        yield f"openvino.kernels: expected a whole number, found {kernels!r}"
    if not isinstance(name := options.openvino.device, str) or not name.strip():
        yield f"openvino.device: expected OpenVINO's name of a device, such as CPU or GPU.1, found {name!r}"
    for name, choice, choices in (
        ("cuda.conv_search", options.cuda.conv_search, get_args(ConvSearch)),
        ("openvino.precision", options.openvino.precision, (*get_args(Hint), None)),  # None: the bundle decides
    ):
        if choice not in choices:
            yield f"{name}: expected one of {', '.join(filter(None, choices))}, found {choice!r}"
    if not callable(options.progress):
        yield f"progress: expected a function of a message, found {options.progress!r:.100}"
    if options.cache is not None and (not isinstance(options.cache, str | os.PathLike) or not os.fspath(options.cache)):
        yield f"cache: expected the path of a folder or None, found {options.cache!r:.100}"  # "" would be the current folder
    if (tolerance := options.probe_tolerance) is not None and not (
        isinstance(tolerance, int | float) and not isinstance(tolerance, bool) and 0 < tolerance < math.inf
    ):
        yield f"probe_tolerance: expected a positive number or None, found {tolerance!r}"
    yield from _passed_through("provider_options", options.provider_options)
    yield from _passed_through("session_config", options.session_config)
    yield from _shapes(options)


def _switches(options: Options) -> Iterator[str]:
    """A text such as "off" would be true."""
    always = {"spin": options.spin, "share_weights": options.share_weights, "cuda.tf32": options.cuda.tf32}
    tensorrt = options.tensorrt
    optional = {"tensorrt.fp16": tensorrt.fp16, "tensorrt.bf16": tensorrt.bf16, "compiled": options.compiled}
    for name, value in (always | optional).items():
        if not isinstance(value, bool) and (name in always or value is not None):
            expected = "True or False" if name in always else "True, False or None"
            yield f"{name}: expected {expected}, found {value!r:.100}"


def _shapes(options: Options) -> Iterator[str]:
    graphs, best, largest = options.cuda.graphs, options.tensorrt.best, options.tensorrt.largest
    if not isinstance(graphs, Sequence) or not all(_is_shape(each) for each in graphs):
        expected = "pairs (batch, sequence) of positive integers, such as ((1, 32), (8, 128))"
        yield f"cuda.graphs: expected {expected}, found {graphs!r:.100}"
    if not _is_shape(best):
        yield f"tensorrt.best: expected (batch, sequence), both positive, found {best!r}"
    elif not _is_shape(largest, may_be_open=True):
        yield f"tensorrt.largest: expected (batch, sequence or None), both positive, found {largest!r}"
    elif best[0] > largest[0] or (largest[1] is not None and best[1] > largest[1]):
        yield f"tensorrt.best: expected at most tensorrt.largest {largest!r}, found {best!r}"


def _is_shape(value: object, may_be_open: bool = False) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2:
        return False
    return _positive(value[0]) and (_positive(value[1]) or (may_be_open and value[1] is None))


def _passed_through(name: str, entries: object) -> Iterator[str]:
    if not isinstance(entries, Mapping):
        yield f"{name}: expected a mapping of strings, found {entries!r}"
        return
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            yield f"{name}: expected strings, as ONNX Runtime takes them, found {key!r}: {value!r}"
        elif not 0 < len(key.encode()) < LONGEST_KEY or len(value.encode()) > LONGEST_VALUE:
            yield f"{name}: expected keys of 1 to {LONGEST_KEY - 1} bytes and values up to {LONGEST_VALUE}, found {key[:40]!r}"
        elif key == WEIGHTS_FOLDER:
            yield f"{name}: {key} would read weights that were not compared with the manifest"
        elif key == GRAPH_FORMAT and value != ONNX_FORMAT:
            yield f"{name}[{key!r}]: graphs of bundles have the format {ONNX_FORMAT}, found {value!r}: omit it"


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
