"""An ONNX Runtime session for a bundle that runs on the provider it was asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runtime._ort import ort
from runtime.bundle import HeadType, InputEntry, InputType, Manifest, TaskEntry
from runtime.errors import BundleError, InputError, ProviderError
from runtime.providers import Provider, resolve, short_name

_ERRORS_ONLY = 3  # ONNX Runtime's log severity; its warnings are about its own optimisations

_TYPES: Final[Mapping[InputType, str]] = {"int64": "tensor(int64)", "float32": "tensor(float)"}

# Logits of a head by rank: [batch, labels], [batch, sequence] or [batch, sequence, labels or vocabulary]; 0 = not checked,
# because the axes of a parse are those of words, which exporters lay out in several ways
_RANKS: Final[Mapping[HeadType, int]] = {
    "classification": 2,
    "multilabel": 2,
    "regression": 2,
    "tagging": 3,
    "question_answering": 2,
    "multiple_choice": 2,
    "masked_lm": 3,
    "causal_lm": 3,
    "seq2seq_lm": 3,
    "dependency_parsing": 0,
}


def open_session(
    folder: Path, manifest: Manifest, provider: str = "auto", threads: int | None = None, drop: int | None = None
) -> Any:
    """An `onnxruntime.InferenceSession` of a variant's graph whose inputs and outputs are those of the manifest.

    `drop`: which variant, None = the bundle's own. `threads`: threads within one operation, None = ONNX Runtime's choice (one
    per physical core).

    Raises:
        BundleError: ONNX Runtime cannot load the graph, or the graph and the manifest disagree.
        ProviderError: the provider that was asked for by name cannot run it. "auto" goes on to the next one instead.
        InputError: `threads` is not a positive integer.
    """
    path = folder / manifest.variant(drop).model
    session = open_graph(path, provider, threads)
    _check_graph(session, path, manifest)
    return session


def open_graph(path: Path, provider: str, threads: int | None) -> Any:
    """A session of any graph, on the provider that was asked for. Errors and arguments: as `open_session`."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads: expected a positive integer or None, found {threads!r}")
    *optional, last = resolve(provider)
    for candidate in optional:  # only "auto" has several, and what cannot run here is no error then
        try:
            return _create(path, candidate, threads)
        except ProviderError:
            continue
    return _create(path, last, threads)


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
    outputs = {value.name: value.shape for value in session.get_outputs()}
    problems = list(input_faults({value.name: value for value in session.get_inputs()}, manifest))
    for task in manifest.tasks:
        problems.extend(_output_faults(task, outputs))
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems)}; export it again with `python -m exporter --output DIR`")


def input_faults(inputs: Mapping[str, Any], manifest: Manifest) -> Iterator[str]:
    """How a graph's inputs, name -> what ONNX Runtime says of it, differ from the manifest's."""
    if sorted(inputs) != sorted(names := [entry.name for entry in manifest.inputs]):
        yield f"inputs: the manifest says {sorted(names)}, the graph {sorted(inputs)}"
    for entry in manifest.inputs:
        if (value := inputs.get(entry.name)) is not None and not _agree(entry, value):
            expected = f"{_TYPES[entry.dtype]} [{', '.join(entry.shape)}]"
            yield f"input {entry.name}: expected {expected}, the graph takes {value.type} {value.shape}"


def _agree(entry: InputEntry, value: Any) -> bool:
    # ONNX Runtime gives [] for an unknown shape and a string or None for a dynamic axis
    if value.type != _TYPES[entry.dtype] or len(value.shape) not in (0, len(entry.shape)):
        return False
    return all(not isinstance(size, int) or str(size) == axis for size, axis in zip(value.shape, entry.shape, strict=False))


def _output_faults(task: TaskEntry, outputs: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    rank = _RANKS[task.head]
    width = 1 if task.head in ("regression", "multiple_choice") else len(task.labels)  # 0: the width is not known here
    expected = f"{f'{width} ' if width else ''}logits of rank {rank}"
    for output in task.outputs:
        shape = outputs.get(output)
        if shape is None:
            yield f"task {task.name}: the graph has no output {output!r}"
        elif rank and shape and (len(shape) != rank or (width and isinstance(shape[-1], int) and shape[-1] != width)):
            yield f"task {task.name}: expected {expected}, the graph gives {output!r} of shape {shape}"
