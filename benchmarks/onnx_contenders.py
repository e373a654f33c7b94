"""Contenders in ONNX Runtime: one file per task, and all tasks in one graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnxruntime

import runtime
from benchmarks.contender import Call, Contender, Feeds, Outputs, Precision, Prepared
from benchmarks.exports import Traces, export_one_graph, export_task_files
from benchmarks.models import Candidate
from benchmarks.ort_options import session_options
from benchmarks.provider_contenders import Portable, bind_predictor, provider_contenders, require
from runtime.bundle import MODEL
from runtime.ort.cpu import multiplies_bf16
from runtime.ort.known_providers import OPENVINO, Provider

# Precisions of the OpenVINO provider.
_OPENVINO: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def open_session(graph: Path, threads: int) -> Any:
    """Open a graph on the CPU provider with `threads` threads within one operator."""
    return onnxruntime.InferenceSession(graph, session_options(threads), providers=["CPUExecutionProvider"])


def graph_bytes(folder: Path) -> int:
    """Return the size of the graph and its weights, without tokenizer, configuration and manifest."""
    return sum(path.stat().st_size for path in folder.rglob(f"{MODEL}*"))


class OurExport:
    """An export of all tasks as one graph, shared by several contenders and created on first use."""

    def __init__(
        self,
        candidate: Candidate,
        traces: Traces,
        folder: Path,
        target: str = "portable",
        precision: str = "fp32",
        verified: bool = True,
    ) -> None:
        """Remember the arguments of `export_one_graph`."""
        self._candidate = candidate
        self._traces = traces
        self._folder = folder
        self._compiled_for = target, precision, verified

    @cached_property
    def written(self) -> tuple[Path, float]:
        """The folder, and the seconds of the export, including the verification against PyTorch, if any."""
        tracing = self._traces.result[2]
        start = time.perf_counter()
        export_one_graph(self._candidate, self._traces, self._folder, *self._compiled_for)
        return self._folder, tracing + time.perf_counter() - start


def _prepare_files(candidate: Candidate, traces: Traces, folder: Path, threads: int) -> Prepared:
    tracing = traces.result[2]
    start = time.perf_counter()
    folders = export_task_files(candidate, traces, folder)
    seconds = tracing + time.perf_counter() - start
    sessions = [open_session(folders[task] / MODEL, threads) for task in candidate.tasks]

    def bind(feeds: Feeds) -> Call:
        def call() -> Outputs:
            return [session.run(["logits"], feeds)[0] for session in sessions]

        return call

    return Prepared(bind, graph_bytes(folder), seconds)


def _prepare_ours(ours: OurExport, tasks: tuple[str, ...], threads: int) -> Prepared:
    folder, seconds = ours.written
    session = open_session(folder / MODEL, threads)

    def bind(feeds: Feeds) -> Call:
        def call() -> Outputs:
            outputs: Outputs = session.run(list(tasks), feeds)
            return outputs

        return call

    return Prepared(bind, graph_bytes(folder), seconds, folder)


def _prepare_runtime(
    ours: OurExport, tasks: tuple[str, ...], threads: int, provider: str = "cpu", floats: Precision = "fp32"
) -> Prepared:
    folder, _ = ours.written
    predictor = runtime.load(folder, provider=provider, threads=threads)
    return Prepared(bind_predictor(predictor, tasks), bundle=folder, floats=floats)


def portable_exports(candidate: Candidate, traces: Traces, folder: Path, fp32: OurExport | None = None) -> Portable:
    """Return the portable exports by precision; each is made when first needed."""
    # Not compared with PyTorch on the CPU, which has no kernels for fp16: the benchmark compares
    found: dict[Precision, OurExport] = {} if fp32 is None else {"fp32": fp32}

    def portable(precision: Precision) -> Callable[[], Path]:
        if precision not in found:
            own = folder / f"portable-{precision}"
            found[precision] = OurExport(candidate, traces, own, "portable", precision, verified=False)
        return lambda: found[precision].written[0]

    return portable


def onnx_contenders(candidate: Candidate, folder: Path, threads: int, providers: Sequence[Provider] = ()) -> list[Contender]:
    """Return all contenders in ONNX Runtime on the CPU, OpenVINO among them.

    Args:
        candidate: model to measure.
        folder: folder for the exported files.
        threads: threads within one operator.
        providers: further providers.
    """
    drop, tasks = candidate.plan.drop, candidate.tasks
    traces = Traces(candidate)
    ours = OurExport(candidate, traces, folder / "ours")
    integers = OurExport(candidate, traces, folder / "ours-int8", "cpu", "int8")
    contenders = [
        Contender(
            "files",
            "ONNX, one file per task",
            "files",
            "fp32",
            drop,
            lambda: _prepare_files(candidate, traces, folder / "files", threads),
        ),
        Contender("ours", "ours, one graph", "ours", "fp32", drop, lambda: _prepare_ours(ours, tasks, threads)),
        Contender(
            "ours-runtime", "ours, runtime.load().run()", "ours", "fp32", drop, lambda: _prepare_runtime(ours, tasks, threads)
        ),
        Contender("ours-int8", "ours, int8", "ours", "int8", drop, lambda: _prepare_ours(integers, tasks, threads)),
    ]
    portable = portable_exports(candidate, traces, folder, ours)
    return [
        *contenders,
        *_openvino_contenders(candidate, traces, folder, threads),
        *provider_contenders(providers, portable, tasks, drop, threads),
    ]


def _openvino_contenders(candidate: Candidate, traces: Traces, folder: Path, threads: int) -> list[Contender]:
    """Return the contenders with the OpenVINO provider, one per precision."""

    def contender(precision: Precision) -> Contender:
        own = OurExport(candidate, traces, folder / f"openvino-{precision}", "openvino", precision)
        # As in runtime.ort.provider_options: in an int8 graph, floats are bf16 if the CPU has the instructions.
        floats: Precision = "bf16" if precision == "bf16" or (precision == "int8" and multiplies_bf16()) else "fp32"

        def prepare() -> Prepared:
            require(OPENVINO)
            return _prepare_runtime(own, candidate.tasks, threads, "openvino", floats)

        return Contender(
            f"openvino-{precision}", f"ours, OpenVINO {precision}", "ours", precision, candidate.plan.drop, prepare
        )

    return [contender(precision) for precision in _OPENVINO]
