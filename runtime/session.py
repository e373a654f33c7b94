"""An ONNX Runtime session for a bundle that runs on the provider it was asked for, and the check of what is fed to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime._ort import ort
from runtime.bundle import Manifest
from runtime.errors import BundleError, InputError, ProviderError
from runtime.providers import Provider, resolve, short_name

_ERRORS_ONLY = 3  # ONNX Runtime's log severity; its warnings are about its own optimisations

# Logits of a head by rank: [batch, labels] or [batch, sequence, labels]
_RANKS = {"classification": 2, "multilabel": 2, "regression": 2, "tagging": 3}


def open_session(folder: Path, manifest: Manifest, provider: str = "auto", threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of the bundle's graph whose inputs and outputs are those of the manifest.

    `threads`: threads within one operation, None = ONNX Runtime's choice (one per physical core).

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or the graph and the manifest disagree.
        ProviderError: the provider that was asked for by name cannot run it. "auto" goes on to the next one instead.
        InputError: `threads` is not a positive integer.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads: expected a positive integer or None, found {threads!r}")
    *optional, last = resolve(provider)
    for candidate in optional:  # only "auto" has several, and what cannot run here is no error then
        try:
            session = _create(folder / manifest.model, candidate, threads)
            break
        except ProviderError:
            continue
    else:
        session = _create(folder / manifest.model, last, threads)
    _check_graph(session, folder / manifest.model, manifest)
    return session


def check_feeds(feeds: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> dict[str, npt.NDArray[np.int64]]:
    """`feeds` as ONNX Runtime takes them: int64 [batch, sequence], with `token_type_ids` of zeros where they were left out.

    Raises:
        InputError: names every mismatch: names, types, shapes, lengths and values.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"feeds: expected a mapping from input name to array, found {type(feeds).__name__}")
    problems = [f"{name}: missing" for name in manifest.inputs if name not in feeds and name != "token_type_ids"]
    problems += [f"{name}: unknown, expected {', '.join(manifest.inputs)}" for name in feeds if name not in manifest.inputs]
    given = {name: feeds[name] for name in manifest.inputs if name in feeds}
    for name, array in given.items():
        problems.extend(_array_faults(name, array, manifest))
    shapes = {name: array.shape for name, array in given.items() if isinstance(array, np.ndarray)}
    if len(set(shapes.values())) > 1:
        problems.append("expected equal shapes, found " + ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()))
    if problems:
        raise InputError("feeds: " + "; ".join(problems))
    if "token_type_ids" in manifest.inputs:
        given.setdefault("token_type_ids", np.zeros_like(given["input_ids"]))
    return given


def _create(path: Path, provider: Provider, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = [(provider.key, dict(provider.options))]
    try:
        # enable_fallback=0: ONNX Runtime would otherwise print, retry on the CPU and say no more
        session = ort.InferenceSession(str(path), options, providers, enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but Exception
        if provider.name == "cpu":
            raise BundleError(f"{path}: ONNX Runtime {ort.__version__} cannot load it: {error}") from error
        raise ProviderError(_failed(provider, str(error))) from error
    # A provider whose own libraries are missing is left out without an exception
    if (found := session.get_providers()[0]) != provider.key:
        raise ProviderError(_failed(provider, f"ONNX Runtime fell back to {short_name(found)}"))
    return session


def _failed(provider: Provider, reason: str) -> str:
    return (
        f"provider {provider.name}: it is installed but does not work here: {reason}; see that the device, its driver and the "
        f"libraries that {provider.package} {ort.__version__} needs are there, or take provider cpu"
    )


def _check_graph(session: Any, path: Path, manifest: Manifest) -> None:
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    problems = []
    if inputs != set(manifest.inputs):
        problems.append(f"inputs: the manifest says {sorted(manifest.inputs)}, the graph {sorted(inputs)}")
    for task in manifest.tasks:
        width = len(task.labels) or 1
        shape = outputs.get(task.output)
        if shape is None:
            problems.append(f"task {task.name}: the graph has no output {task.output!r}")
        # ONNX Runtime gives [] for an unknown shape and a string or None for a dynamic axis
        elif shape and (len(shape) != _RANKS[task.head] or (isinstance(shape[-1], int) and shape[-1] != width)):
            problems.append(f"task {task.name}: expected {width} logits of rank {_RANKS[task.head]}, the graph gives {shape}")
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems)}; export it again with `python -m exporter --output DIR`")


def _array_faults(name: str, array: object, manifest: Manifest) -> list[str]:
    if not isinstance(array, np.ndarray):
        return [f"{name}: expected a numpy array, found {type(array).__name__}; use numpy.array(..., dtype=numpy.int64)"]
    problems = []
    if array.dtype != np.int64:
        problems.append(f"{name}: expected int64, found {array.dtype}; cast it with .astype(numpy.int64)")
    if array.ndim != 2:
        return [*problems, f"{name}: expected rank 2 [batch, sequence], found shape {list(array.shape)}"]
    if array.shape[0] < 1:
        problems.append(f"{name}: expected at least one row, found an empty batch")
    if not 1 <= array.shape[1] <= manifest.max_length:
        problems.append(f"{name}: expected 1..{manifest.max_length} tokens in a row, found {array.shape[1]}")
    limit = {"input_ids": manifest.vocab_size, "attention_mask": 2, "token_type_ids": manifest.segments}[name]
    if array.dtype.kind in "iu" and array.size and not (array.min() >= 0 and array.max() < limit):
        problems.append(f"{name}: expected values in 0..{limit - 1}, found {array.min()}..{array.max()}")
    return problems
