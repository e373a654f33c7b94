"""Contenders in ONNX Runtime on a GPU, with inputs and outputs bound to buffers on the device."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import runtime
from benchmarks.contender import Bind, Call, Contender, Feeds, MissingError, Outputs, Precision, Prepared, missing, one_line
from benchmarks.device import Device, OutputBuffer, probe
from benchmarks.exports import Traces, export_task_files
from benchmarks.models import Candidate, at_drop
from benchmarks.onnx_contenders import OurExport, graph_bytes, portable_exports
from benchmarks.options import Shape, cores
from benchmarks.provider_contenders import bind_predictor, provider_contenders
from runtime import CudaOptions, Options
from runtime.bundle import MODEL
from runtime.ort.known_providers import Provider

_TENSORRT = "TensorrtExecutionProvider"


def _bound(sessions: Sequence[Any], outputs: Sequence[Sequence[str]], device: Device, cuda_graph: bool = False) -> Bind:
    """Return the calls of sessions whose inputs and outputs are bound to fixed buffers on the device.

    Args:
        sessions: sessions with the same inputs.
        outputs: names of the outputs of each session, one per task.
        device: device of the sessions.
        cuda_graph: whether the sessions capture their runs.
    """
    numbers = itertools.count(1)

    def bind(feeds: Feeds) -> Call:
        inputs = device.tensors(feeds)
        batch = len(feeds["input_ids"])
        buffer = OutputBuffer(
            device, [_shape(session, name, batch) for session, own in zip(sessions, outputs, strict=True) for name in own]
        )
        places = itertools.count()
        bindings = []
        for session, own in zip(sessions, outputs, strict=True):
            binding = session.io_binding()
            for name, tensor in inputs.items():
                binding.bind_input(name, device.name, 0, feeds[name].dtype, list(tensor.shape), tensor.data_ptr())
            for name in own:
                place = next(places)
                binding.bind_output(name, device.name, 0, np.float32, list(buffer.shapes[place]), buffer.address(place))
            bindings.append(binding)
        options = onnxruntime.RunOptions()
        if cuda_graph:
            # Every binding has a graph with its addresses.
            options.add_run_config_entry("gpu_graph_id", str(next(numbers)))
        else:
            # One synchronization after the last session, not one after each.
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def call(_bound: Any = inputs) -> Outputs:  # the bindings hold addresses only: the call keeps the tensors
            for session, binding in zip(sessions, bindings, strict=True):
                session.run_with_iobinding(binding, options)
            device.synchronize()
            return buffer.to_host()

        if cuda_graph:
            # The first run captures. Then the buffer is cleared, so that the check sees what a replay writes.
            for _ in range(3):
                call()
            buffer.clear()
        return call

    return bind


def _shape(session: Any, name: str, batch: int) -> tuple[int, ...]:
    """Return the shape of an output for a batch; its other axes are fixed."""
    value = next(value for value in session.get_outputs() if value.name == name)
    rest = value.shape[1:]
    if value.type != "tensor(float)" or not all(isinstance(size, int) for size in rest):
        raise MissingError(f"expected an output [batch, labels] in fp32, {name} is {value.type} {value.shape}")
    return (batch, *rest)


def _files(candidate: Candidate, traces: Traces, folder: Path, device: Device, precision: Precision) -> Prepared:
    tracing = traces.result[2]
    start = time.perf_counter()
    folders = export_task_files(candidate, traces, folder, "cuda", precision)
    seconds = tracing + time.perf_counter() - start
    sessions = [device.session(folders[task] / MODEL) for task in candidate.tasks]
    return Prepared(_bound(sessions, [["logits"]] * len(sessions), device), graph_bytes(folder), seconds)


def _ours(ours: OurExport, tasks: Sequence[str], device: Device, floats: Precision, cuda_graph: bool = False) -> Prepared:
    folder, seconds = ours.written
    session = device.session(folder / MODEL, tf32=floats == "tf32", cuda_graph=cuda_graph)
    bind = _bound([session], [tasks], device, cuda_graph)
    return Prepared(bind, graph_bytes(folder), seconds, folder, floats)


def _runtime(ours: OurExport, tasks: Sequence[str], provider: str, graphs: Sequence[Shape]) -> Prepared:
    folder, _ = ours.written
    pairs = tuple((shape.batch, shape.length) for shape in graphs)
    predictor = runtime.load(folder, provider=provider, options=Options(cuda=CudaOptions(graphs=pairs)))
    if not graphs:
        _print_nodes(predictor)

    return Prepared(bind_predictor(predictor, tasks), bundle=folder)


def _print_nodes(predictor: runtime.Predictor) -> None:
    try:
        text = ", ".join(f"{name} {count}" for name, count in predictor.node_counts().items())
    except Exception as error:  # the times are worth more than the counts
        text = f"unknown, {one_line(error)}"
    print(f"  nodes by provider: {text}", file=sys.stderr, flush=True)


def _tensorrt(ours: OurExport, tasks: Sequence[str], device: Device) -> Prepared:
    """Prepare the TensorRT provider, after it was found to work.

    Raises:
        MissingError: it does not work.
    """
    if _TENSORRT not in onnxruntime.get_available_providers():
        raise MissingError(f"onnxruntime {onnxruntime.__version__} has no TensorRT provider")
    try:
        probe(device, _TENSORRT)
    except Exception as error:  # ONNX Runtime raises any exception
        raise MissingError(f"TensorRT's libraries are not installed or do not work: {type(error).__name__}") from error
    return _runtime(ours, tasks, "tensorrt", ())


def cuda_onnx_contenders(
    candidate: Candidate, folder: Path, device: Device, shapes: Sequence[Shape], providers: Sequence[Provider] = ()
) -> list[Contender]:
    """Return all contenders in ONNX Runtime.

    Args:
        candidate: model to measure.
        folder: folder for the exported files.
        device: the device.
        shapes: shapes to capture as CUDA graphs in the runtime.
        providers: further providers.
    """
    drop, tasks, traces = candidate.plan.drop, candidate.tasks, Traces(candidate)

    def export(source: Candidate, traces: Traces, name: str, target: str, precision: Precision) -> OurExport:
        # Not verified on the CPU, which has no kernels for fp16: the benchmark compares with PyTorch on the GPU.
        return OurExport(source, traces, folder / name, target, precision, verified=False)

    fp32 = export(candidate, traces, "ours", "cuda", "fp32")
    fp16 = export(candidate, traces, "ours-fp16", "cuda", "fp16")
    tensorrt = export(candidate, traces, "ours-tensorrt", "tensorrt", "fp16")

    def files(precision: Precision) -> Callable[[], Prepared]:
        return lambda: _files(candidate, traces, folder / f"files-{precision}", device, precision)

    def ours(exported: OurExport, floats: Precision, cuda_graph: bool = False) -> Callable[[], Prepared]:
        return lambda: _ours(exported, tasks, device, floats, cuda_graph)

    def through_runtime(graphs: Sequence[Shape]) -> Callable[[], Prepared]:
        return lambda: _runtime(fp16, tasks, device.name, graphs)

    def contender(key: str, label: str, precision: Precision, prepare: Callable[[], Prepared], drop: int = drop) -> Contender:
        return Contender(key, label, "ours", precision, drop, prepare)

    found = [
        Contender("files", "ONNX, one file per task", "files", "fp32", drop, files("fp32")),
        Contender("files-fp16", "ONNX, one file per task, fp16", "files", "fp16", drop, files("fp16")),
        contender("ours", "ours, one graph", "fp32", ours(fp32, "fp32")),
        contender("ours-tf32", "ours, tf32", "tf32", ours(fp32, "tf32")),
        contender("ours-fp16", "ours, fp16", "fp16", ours(fp16, "fp16")),
        contender("ours-fp16-runtime", "ours, fp16, runtime.load().run()", "fp16", through_runtime(())),
    ]
    # A capture that fails may break the GPU for the process: captures come last.
    captured = [
        contender("ours-fp16-graph", "ours, fp16, CUDA graph", "fp16", ours(fp16, "fp16", True)),
        contender("ours-fp16-runtime-graphs", "ours, fp16, runtime, CUDA graphs", "fp16", through_runtime(shapes)),
    ]
    if drop > 0:
        whole = at_drop(candidate, 0)
        undropped = export(whole, Traces(whole), "ours-fp16-drop0", "cuda", "fp16")
        found.append(contender("ours-fp16-drop0", "ours, fp16, no drop", "fp16", ours(undropped, "fp16"), 0))
        label = "ours, fp16, CUDA graph, no drop"
        captured.append(contender("ours-fp16-graph-drop0", label, "fp16", ours(undropped, "fp16", True), 0))
    portable = portable_exports(candidate, traces, folder)
    return [
        *found,
        contender("ours-bf16", "ours, bf16", "bf16", missing("the target cuda has fp32 and fp16 only")),
        contender("ours-tensorrt", "ours, TensorRT fp16", "fp16", lambda: _tensorrt(tensorrt, tasks, device)),
        *provider_contenders(providers, portable, tasks, drop, cores()),
        *captured,
    ]
