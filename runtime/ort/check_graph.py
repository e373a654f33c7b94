"""Check of a graph's inputs and outputs against the manifest."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runtime.bundle import HeadType, InputEntry, InputType, Manifest, TaskEntry
from runtime.errors import AdapterDropError, BundleError

_TYPES: Final[Mapping[InputType, str]] = {"int64": "tensor(int64)", "float32": "tensor(float)"}
_FLOATS: Final = ("tensor(float)", "tensor(float16)", "tensor(double)")

# Rank of a head's outputs: [batch, labels or features], [batch, sequence] or [batch, sequence, …]; 0 = not checked: the
# axes of a dependency parse are words, for which there are several layouts, and pooled states are tensors of several ranks
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
    "text_embedding": 2,
    "image_embedding": 2,
    "sentence_embedding": 2,
    "hidden_states": 3,
    "pooled_states": 0,
}


def check_graph(session: Any, path: Path, manifest: Manifest) -> None:
    """Check the inputs and outputs of a graph.

    Args:
        session: InferenceSession of the graph.
        path: path of the graph, for the message.
        manifest: manifest with the expected inputs and tasks.

    Raises:
        BundleError: the graph does not match the manifest; the message names every input and output that differs.
    """
    outputs = {value.name: value.shape for value in session.get_outputs()}
    types = {value.name: value.type for value in session.get_outputs()}
    problems = list(input_problems({value.name: value for value in session.get_inputs()}, manifest))
    for task in manifest.tasks:
        problems.extend(_output_problems(task, outputs))
        problems.extend(type_problems({name: types[name] for name in task.outputs if name in types}))
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems)}; export it again with `python -m exporter --output DIR`")


def input_problems(inputs: Mapping[str, Any], manifest: Manifest) -> Iterator[str]:
    """Yield a message for each graph input that differs from the manifest; `inputs`: name -> NodeArg of ONNX Runtime."""
    if sorted(inputs) != sorted(names := [entry.name for entry in manifest.inputs]):
        yield f"inputs: the manifest lists {sorted(names)}, the graph has {sorted(inputs)}"
    for entry in manifest.inputs:
        if (value := inputs.get(entry.name)) is not None and not _agree(entry, value):
            expected = f"{_TYPES[entry.dtype]} [{', '.join(entry.shape)}]"
            yield f"input {entry.name}: expected {expected}, the graph has {value.type} {value.shape}"


def type_problems(types: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for each output whose elements are no floats; `types`: name -> type as ONNX Runtime names it."""
    for name, found in types.items():
        if found not in _FLOATS:
            yield f"output {name}: expected {' or '.join(_FLOATS)}, the graph has {found}"


class OutputCheck:
    """Check of the shapes of a run's outputs: ONNX Runtime reports only some of them when a graph is opened."""

    def __init__(self, manifest: Manifest) -> None:
        """Prepare the rank and the number of logits of all outputs of the manifest."""
        self._expected = {output: (task, _RANKS[task.head], _width(task)) for task in manifest.tasks for output in task.outputs}

    def __call__(self, outputs: Sequence[str], shapes: Sequence[Sequence[int]], rows: int) -> None:
        """Check the shapes of a run's outputs.

        Args:
            outputs: names of the outputs.
            shapes: their shapes.
            rows: number of rows of the inputs.

        Raises:
            AdapterDropError: an output does not have the rank, the rows or the number of logits of its task.
        """
        for output, shape in zip(outputs, shapes, strict=True):
            task, rank, width = self._expected[output]
            if rank and (len(shape) != rank or shape[0] != rows or (width and shape[-1] != width)):
                expected = f"{rows} row(s) of {f'{width} ' if width else ''}logits of rank {rank}"
                raise AdapterDropError(
                    f"task {task.name}: expected {expected}, the graph returned {output!r} of shape {list(shape)}; export "
                    "the bundle again"
                )


def _agree(entry: InputEntry, value: Any) -> bool:
    # ONNX Runtime reports [] for an unknown shape and a string or None for a dynamic axis
    if value.type != _TYPES[entry.dtype] or len(value.shape) not in (0, len(entry.shape)):
        return False
    return all(not isinstance(size, int) or str(size) == axis for size, axis in zip(value.shape, entry.shape, strict=False))


def _output_problems(task: TaskEntry, outputs: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    rank = _RANKS[task.head]
    width = _width(task)
    expected = f"{f'{width} ' if width else ''}logits of rank {rank}"
    for output in task.outputs:
        shape = outputs.get(output)
        if shape is None:
            yield f"task {task.name}: the graph has no output {output!r}"
        elif rank and shape and (len(shape) != rank or (width and isinstance(shape[-1], int) and shape[-1] != width)):
            yield f"task {task.name}: expected {expected}, the graph has {output!r} of shape {shape}"


def _width(task: TaskEntry) -> int:
    """Number of logits of a task; 0 if the manifest does not state it."""
    return task.width or len(task.labels) or int(task.head in ("regression", "multiple_choice"))
