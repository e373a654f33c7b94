"""Writes a bundle as a model repository of Triton Inference Server: `python -m runtime triton DIR REPOSITORY`."""

import argparse
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle import WEIGHTS, Manifest, check_files, read_manifest
from runtime.errors import InputError
from runtime.ort.open import open_sessions

_TYPES: Final = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """`name`: of the models, with "_dropN" behind it where the bundle has several variants; `max_batch`: rows that Triton may
    join; `queue_microseconds`: how long it waits for them; `instances`: sessions of each model; `gpu`: run on a GPU;
    `tensorrt`: there by TensorRT, with `fp16` in half precision."""

    name: str = "adapterdrop"
    max_batch: int = 32
    queue_microseconds: int = 1000
    instances: int = 1
    gpu: bool = False
    tensorrt: bool = False
    fp16: bool = False

    def __post_init__(self) -> None:
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
    """Writes a model for every variant of the bundle in `folder` and returns their folders. Weights are linked where the file
    system can, copied elsewhere.

    Triton joins requests of equal length only: clients pad to a few lengths. Tokenizing is the clients' part.

    Raises:
        BundleError: `folder` is no bundle, or not as its manifest says.
        InputError: a model of that name is there already, or the folder cannot be written.
    """
    options = TritonOptions() if options is None else options
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    sessions = open_sessions(Path(folder), manifest, [variant.model for variant in manifest.variants], "cpu").sessions
    written = []
    for variant in manifest.variants:
        several = len(manifest.variants) > 1
        name = f"{options.name}_drop{variant.drop}" if several else options.name
        model = Path(repository) / name
        try:
            (model / "1").mkdir(parents=True)
            shutil.copyfile(Path(folder) / variant.model, model / "1" / "model.onnx")
            if WEIGHTS in manifest.files:
                _link(Path(folder) / WEIGHTS, model / "1" / WEIGHTS)
            (model / "config.pbtxt").write_text(config(name, manifest, sessions[variant.model], options), encoding="utf-8")
        except OSError as error:
            found = "it is there already; remove it or choose another name" if model.exists() else error.strerror
            raise InputError(f"{model}: cannot be written: {found}") from error
        written.append(model)
    return written


def config(name: str, manifest: Manifest, session: Any, options: TritonOptions) -> str:
    """config.pbtxt of one model. `session`: an InferenceSession of its graph, which knows the outputs' shapes."""
    inputs = [_tensor(entry.name, _TYPES[f"tensor({_ONNX[entry.dtype]})"], entry.shape) for entry in manifest.inputs]
    outputs = [_tensor(value.name, _TYPES[value.type], value.shape) for value in session.get_outputs()]
    kind = "KIND_GPU" if options.gpu else "KIND_CPU"
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {options.max_batch}",
        f"input [\n{_joined(inputs)}\n]",
        f"output [\n{_joined(outputs)}\n]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {options.queue_microseconds} }}",
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
    """`shape` begins with the batch axis, which Triton adds itself; axes that are no numbers vary."""
    dims = [str(size) if str(size).isdecimal() else "-1" for size in shape[1:]]
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'  {{ name: "{quoted}" data_type: {kind} dims: [ {", ".join(dims)} ] }}'


def _joined(tensors: Sequence[str]) -> str:
    return ",\n".join(tensors)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def main(arguments: Sequence[str]) -> int:
    """The command line behind `python -m runtime triton`; raises as `write_repository`."""
    parser = argparse.ArgumentParser(prog="python -m runtime triton", description=__doc__.split(":")[0] + ".")
    add = parser.add_argument
    add("folder", metavar="DIR", help="the folder that `python -m exporter` wrote")
    add("repository", metavar="REPOSITORY", help="Triton's model repository")
    add("--name", default=TritonOptions.name, help="of the model")
    add("--max-batch", type=int, default=TritonOptions.max_batch, help="rows that Triton may join")
    add("--queue-microseconds", type=int, default=TritonOptions.queue_microseconds, help="how long it waits for them")
    add("--instances", type=int, default=TritonOptions.instances, help="sessions of each model")
    add("--gpu", action="store_true", help="run on a GPU")
    add("--tensorrt", action="store_true", help="by TensorRT; needs --gpu")
    add("--fp16", action="store_true", help="in half precision; needs --tensorrt")
    given = vars(parser.parse_args(arguments))
    folder, repository = given.pop("folder"), given.pop("repository")
    for model in write_repository(folder, repository, TritonOptions(**given)):
        print(model)
    return 0
