"""Export of a bundle as a model repository of Triton Inference Server: `python -m runtime triton DIR REPOSITORY`."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle import ROUTE_INPUTS, Manifest, open_bundle
from runtime.bundle.scratch import scratch
from runtime.command_options import CommandParser
from runtime.errors import InputError
from runtime.hub import Access, bundle_folder
from runtime.ort.graph_file import GraphFile
from runtime.ort.open_sessions import open_sessions

_MAKING: Final = ".adapterdrop-making-"  # prefix
_TYPES: Final = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """Options of a Triton model repository.

    Attributes:
        name: name of the models; a bundle with several variants adds the suffix "_dropN", its routed graph "_routed".
        max_batch: maximum number of rows of a dynamic batch.
        queue_microseconds: maximum delay of a request while a batch fills, in microseconds.
        instances: number of instances of each model.
        gpu: run the models on a GPU.
        tensorrt: accelerate the models with TensorRT; requires `gpu`.
        fp16: let TensorRT use float16; requires `tensorrt`.

    Raises:
        InputError: a field is invalid; the message names all such fields.
    """

    name: str = "adapterdrop"
    max_batch: int = 32
    queue_microseconds: int = 1000
    instances: int = 1
    gpu: bool = False
    tensorrt: bool = False
    fp16: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        problems = [
            f"{name}: expected a positive integer, found {value}"
            for name, value in (("max_batch", self.max_batch), ("instances", self.instances))
            if value < 1
        ]
        if not re.fullmatch("[A-Za-z0-9_.-]+", self.name):
            problems.append(f"name: expected letters, digits, _, . and -, found {self.name!r}")
        if self.queue_microseconds < 0:
            problems.append(f"queue_microseconds: expected at least 0, found {self.queue_microseconds}")
        if (self.tensorrt and not self.gpu) or (self.fp16 and not self.tensorrt):
            problems.append("expected fp16 only with tensorrt, and tensorrt only with gpu")
        if problems:
            raise InputError("; ".join(problems))


def write_repository(
    folder: str | os.PathLike[str], repository: str | os.PathLike[str], options: TritonOptions | None = None
) -> list[Path]:
    """Write one Triton model per variant of a bundle, and one for its routed graph if it has one. Slots are left out.

    Graphs and weights are copies: a link would share its bytes with the bundle, and a write to one of them would change the
    weights of a running server. Clients tokenize the texts. Triton batches only requests of equal length, so clients should pad
    to a few lengths. The routed graph has a task per row instead of an output per task, so that requests for any tasks share a
    batch; Triton does not batch it, because the rows that `row_ids` names would change: a client sends a batch at a time.

    Args:
        folder: folder of the bundle, or its hub id.
        repository: folder of the model repository.
        options: options of the models; None for the defaults.

    Returns:
        Folders of the models.

    Raises:
        BundleError: `folder` is not a bundle, or it does not match its manifest.
        InputError: a model with this name exists, or the folder cannot be written.
    """
    options = TritonOptions() if options is None else options
    manifest, files = open_bundle(bundle_folder(folder, Access())[0])
    files.bind(manifest.files)
    graphs: list[tuple[str, str]] = []  # name and file of each model
    for variant in manifest.variants:
        name = f"{options.name}_drop{variant.drop}" if len(manifest.variants) > 1 else options.name
        graphs += [(name, variant.model)] + ([(f"{name}_routed", variant.routed)] if variant.routed else [])
    root = Path(repository)
    for name, _ in graphs:
        if os.path.lexists(root / name):
            raise InputError(f"{root / name}: cannot be written: it already exists; remove it or choose another name")
    sessions = open_sessions(files, manifest, [file for _, file in graphs], "cpu").sessions
    # All or none, and each as a whole; a server that polls may log that the folder in between is no model
    with _removed_on_failure(root) as written, scratch(root, _MAKING) as making:
        for name, file in graphs:
            text = config(name, manifest, sessions[file], options)
            (folder := making / name / "1").mkdir(parents=True)
            for target, source in {"model.onnx": file, **GraphFile(files, file).external_files()}.items():
                files.copy(source, folder / target)
            (making / name / "config.pbtxt").write_text(text, encoding="utf-8", newline="\n")
        for name, _ in graphs:
            written.append((making / name).rename(root / name))
    return written


def config(name: str, manifest: Manifest, session: Any, options: TritonOptions) -> str:
    """Return the text of config.pbtxt for one model.

    Args:
        name: name of the model.
        manifest: manifest of the bundle.
        session: InferenceSession of the graph, for the types and shapes of the outputs.
        options: options of the models.
    """
    routed = any(value.name in ROUTE_INPUTS for value in session.get_inputs())
    first = 0 if routed else 1  # Triton adds an axis only to models that it batches
    kinds = [(entry.name, _TYPES[f"tensor({_ONNX[entry.dtype]})"], entry.shape) for entry in manifest.inputs]
    kinds += [(name, "TYPE_INT64", ("rows",)) for name in ROUTE_INPUTS] if routed else []
    inputs = [_tensor(name, kind, shape[first:]) for name, kind, shape in kinds]
    outputs = [_tensor(value.name, _TYPES[value.type], value.shape[first:]) for value in session.get_outputs()]
    kind = "KIND_GPU" if options.gpu else "KIND_CPU"
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if routed else options.max_batch}",
        f"input [\n{_joined(inputs)}\n]",
        f"output [\n{_joined(outputs)}\n]",
        *([] if routed else [f"dynamic_batching {{ max_queue_delay_microseconds: {options.queue_microseconds} }}"]),
        f"instance_group [ {{ count: {options.instances} kind: {kind} }} ]",
    ]
    if options.tensorrt:
        precision = "FP16" if options.fp16 else "FP32"
        parameters = {"precision_mode": precision, "trt_engine_cache_enable": "true"}
        entries = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
        accelerator = f'{{ name: "tensorrt" {entries} }}'
        lines.append(f"optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {accelerator} ] }} }}")
    return "\n".join(lines) + "\n"


_ONNX: Final = {"int64": "int64", "float32": "float"}


def _tensor(name: str, kind: str, shape: Sequence[Any]) -> str:
    """Format one tensor; axes without a number are dynamic."""
    dims = [str(size) if str(size).isdecimal() else "-1" for size in shape]
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'  {{ name: "{quoted}" data_type: {kind} dims: [ {", ".join(dims)} ] }}'


def _joined(tensors: Sequence[str]) -> str:
    return ",\n".join(tensors)


@contextlib.contextmanager
def _removed_on_failure(root: Path) -> Iterator[list[Path]]:
    """Make a folder; on failure, remove the folders in the yielded list and what was made of its path."""
    made = [each for each in (root, *root.parents) if not os.path.lexists(each)]
    written: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield written
    except BaseException as error:
        for each in written:
            shutil.rmtree(each, ignore_errors=True)
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"{root}: cannot be written: {error.strerror or error}") from error
        raise


def main(arguments: Sequence[str]) -> int:
    """Run the command line of `python -m runtime triton` and return its exit status.

    Raises:
        BundleError: as for `write_repository`.
        InputError: as for `write_repository`.
    """
    parser = CommandParser(
        prog="python -m runtime triton", description="Write a bundle as a model repository of Triton Inference Server."
    )
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder written by `python -m exporter`")
    add("repository", metavar="REPOSITORY", help="folder of the model repository")
    add("--name", default=TritonOptions.name, help="name of the model; default %(default)s")
    add(
        "--max-batch",
        type=int,
        metavar="N",
        default=TritonOptions.max_batch,
        help="maximum rows of a batch; default %(default)s",
    )
    add(
        "--queue-microseconds",
        type=int,
        metavar="N",
        default=TritonOptions.queue_microseconds,
        help="maximum delay while a batch fills; default %(default)s",
    )
    add("--instances", type=int, metavar="N", default=TritonOptions.instances, help="instances per model; default %(default)s")
    add("--gpu", action="store_true", help="run on a GPU")
    add("--tensorrt", action="store_true", help="accelerate with TensorRT; requires --gpu")
    add("--fp16", action="store_true", help="let TensorRT use float16; requires --tensorrt")
    given = vars(parser.parse_args(arguments))
    folder, repository = given.pop("folder"), given.pop("repository")
    for model in write_repository(folder, repository, TritonOptions(**given)):
        print(model)
    return 0
