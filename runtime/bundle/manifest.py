"""The manifest `adapterdrop.json` of a bundle: reading, writing and checking.

`exporter.write.save` writes the manifest through this module and `runtime.load` reads it, so both agree by construction.
Readers are strict: a field that is added, removed or changes its meaning requires a new FORMAT_VERSION.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.bundle.entries import LARGEST, MOST_LAYERS, InputEntry, TaskEntry, VariantEntry, repeated, shown
from runtime.bundle.file_names import GRAPHS, name_problems
from runtime.bundle.interface import BATCH
from runtime.bundle.schema import decode, encode
from runtime.bundle.split_entry import SplitEntry
from runtime.errors import BundleError

__all__ = [
    "EXPORT_AGAIN",
    "FORMAT_VERSION",
    "MANIFEST",
    "MODEL",
    "TOKENIZER",
    "WEIGHTS",
    "Manifest",
    "digest",
    "read_manifest",
    "routed_file",
    "slots_file",
    "text_file",
]

FORMAT_VERSION: Final = 9
MANIFEST: Final = "adapterdrop.json"
MODEL: Final = "model.onnx"
WEIGHTS: Final = "model.onnx.data"
TOKENIZER: Final = "tokenizer.json"

EXPORT_AGAIN: Final = "export it again with `python -m exporter --output DIR`"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a bundle. The JSON keys are these fields, in this order.

    Attributes:
        format_version: version of the format, `FORMAT_VERSION`.
        inputs: inputs of the graphs.
        max_lengths: named axis other than batch -> largest allowed length; an axis without a limit is absent.
        layers: number of layers of the trunk.
        tasks: tasks in export order.
        variants: one entry per drop, the default variant first.
        splits: file name of a variant's graph -> its graphs of the trunk and the branches; empty without `--split`.
        text_graphs: file name of a variant's graph -> the same graph with the tokenizer in front of it; empty without
            `--with-tokenizer`.
        precision: precision of the weights: "fp32", "fp16", "bf16" or "int8".
        target: target of the compiled graphs, such as "portable".
        opset: ONNX opset version of the graphs.
        tokenizer: whether the bundle contains tokenizer.json.
        padding_counts: whether logits of a text depend on its padding, on either side; `predict` then pads no text.
        versions: package -> version at export.
        files: name -> sha256 in hex of every file except the manifest.
    """

    format_version: int = FORMAT_VERSION
    inputs: tuple[InputEntry, ...]
    max_lengths: Mapping[str, int]
    layers: int
    tasks: tuple[TaskEntry, ...]
    variants: tuple[VariantEntry, ...]
    splits: Mapping[str, SplitEntry] = field(default_factory=dict)
    text_graphs: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    target: str = "portable"
    opset: int
    tokenizer: bool
    padding_counts: bool = False
    versions: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def drops(self) -> tuple[int, ...]:
        """Drops of all variants, the default one first."""
        return tuple(variant.drop for variant in self.variants)

    def variant(self, drop: int | None = None) -> VariantEntry:
        """Return the variant with a drop; the default variant for None.

        Raises:
            KeyError: the drop was not exported.
        """
        return self.variants[0] if drop is None else {variant.drop: variant for variant in self.variants}[drop]

    def split(self, drop: int) -> SplitEntry | None:
        """Return the split graphs of the variant with a drop; None if it has none."""
        return self.splits.get(self.variant(drop).model)

    @property
    def main_graphs(self) -> frozenset[str]:
        """File names of the graphs of all tasks, the only ones that are captured as CUDA graphs."""
        return frozenset(variant.model for variant in self.variants)

    @property
    def whole_graphs(self) -> frozenset[str]:
        """File names of the graphs of all tasks and of the routed graphs, which `load` opens on every provider."""
        return frozenset(graph for variant in self.variants for graph in (variant.model, variant.routed) if graph)

    def to_json(self) -> str:
        """Return deterministic, indented JSON with a trailing newline.

        Raises:
            ValueError: a number is NaN or infinite.
        """
        return json.dumps(encode(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the manifest into `folder` and return its path.

        Raises:
            BundleError: `read_manifest` would reject the manifest. Nothing is written: an invalid bundle is a bug of the
                exporter and must not reach a user.
        """
        path = Path(folder) / MANIFEST
        _refuse(path, list(_problems(self)))
        path.write_text(self.to_json(), encoding="utf-8", newline="\n")
        return path


def routed_file(model: str) -> str:
    """Return the file name of the routed graph that belongs to the graph `model`."""
    return f"{model.removesuffix('.onnx')}_routed.onnx"


def slots_file(model: str) -> str:
    """Return the file name of the graph with slots that belongs to the graph `model`."""
    return f"{model.removesuffix('.onnx')}_slots.onnx"


def text_file(model: str) -> str:
    """Return the file name of the graph with a tokenizer that belongs to the graph `model`, such as text_drop5.onnx."""
    return f"text{model.removeprefix('model')}"


def read_manifest(folder: str | os.PathLike[str], content: bytes | None = None) -> Manifest:
    """Read and check the manifest of the bundle in `folder`.

    No other file is read; `check_files` checks the files.

    Args:
        folder: folder of the bundle.
        content: bytes of the manifest, if they were already read.

    Raises:
        BundleError: the folder or the manifest is missing, the format has another version, or a field is invalid; the message
            names all invalid fields.
    """
    path = Path(folder) / MANIFEST
    if content is None and not path.is_file():
        found = "there is no such folder" if not Path(folder).is_dir() else f"it has no {MANIFEST}"
        raise BundleError(f"{os.fspath(folder)}: not a bundle: {found}; make one with `python -m exporter --output DIR`")
    try:
        document = json.loads((path.read_bytes() if content is None else content).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise BundleError(f"{path}: expected UTF-8 JSON, found: {error}; {EXPORT_AGAIN}") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:  # before the fields, which may differ in another format
        age, remedy = ("a newer", "upgrade adapterdrop-onnx") if version > FORMAT_VERSION else ("another", EXPORT_AGAIN)
        found = f"exported by {age} version (format {version}, this one reads {FORMAT_VERSION})"
        raise BundleError(f"{path}: format_version: {found}; {remedy}")
    problems: list[str] = []
    manifest = decode(Manifest, document, "", problems)
    if not isinstance(document, dict):
        problems = [f"expected a JSON object, found {type(document).__name__}"]
    _refuse(path, problems)
    _refuse(path, list(_problems(manifest)))
    return manifest  # type: ignore[no-any-return]  # decode() returns Any: the type is its argument


def digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file in lower-case hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems)}; {EXPORT_AGAIN}")


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield a message for each invalid value in a manifest whose fields have the right types."""
    if manifest.format_version != FORMAT_VERSION:
        yield f"format_version: expected {FORMAT_VERSION}, found {manifest.format_version}"
    for name, most in (("layers", MOST_LAYERS), ("opset", LARGEST)):
        if (value := getattr(manifest, name)) < 1:
            yield f"{name}: expected at least 1, found {value}"
        if value > most:
            yield f"{name}: expected at most {most:,}, found {shown(value)}"
    if manifest.layers > MOST_LAYERS:  # the checks below take time and memory in proportion to the layers
        return
    yield from _input_problems(manifest)
    yield from _file_problems(manifest)
    if not manifest.tasks:
        yield "tasks: expected at least one, found none"
    same = list(repeated("tasks: name", (task.name for task in manifest.tasks)))
    yield from same or repeated("tasks: result name", (name for task in manifest.tasks for name in task.result_names))
    yield from repeated("tasks: outputs", (output for task in manifest.tasks for output in task.outputs))
    for index, task in enumerate(manifest.tasks):
        yield from task.problems(f"tasks[{index}]")
    yield from _variant_problems(manifest)
    yield from _split_problems(manifest)
    yield from _text_problems(manifest)


def _variant_problems(manifest: Manifest) -> Iterator[str]:
    if not manifest.variants:
        yield "variants: expected at least one, found none"
    names = {task.name for task in manifest.tasks}
    yield from repeated("variants: drop", (str(variant.drop) for variant in manifest.variants))
    graphs = [graph for variant in manifest.variants for graph in (variant.model, variant.routed) if graph]
    graphs += [graph for entry in manifest.splits.values() for graph in entry.graphs]
    graphs += manifest.text_graphs.values()
    yield from repeated("variants: file", graphs)
    for index, variant in enumerate(manifest.variants):
        yield from variant.problems(f"variants[{index}]", manifest.layers, names)
        for name in ("model", "routed"):
            graph = getattr(variant, name)
            if graph not in manifest.files and (graph or name == "model"):
                yield f"variants[{index}].{name}: expected one of the listed files, found {graph!r}"
        if variant.probe.file not in manifest.files:
            yield f"variants[{index}].probe.file: expected one of the listed files, found {variant.probe.file!r}"


def _text_problems(manifest: Manifest) -> Iterator[str]:
    models = [variant.model for variant in manifest.variants]
    for model, graph in manifest.text_graphs.items():
        if model not in models:
            yield f"text_graphs: expected graphs of the variants ({', '.join(models)}), found {model!r}"
        if graph not in manifest.files:
            yield f"text_graphs[{model!r}]: expected one of the listed files, found {graph!r}"


def _split_problems(manifest: Manifest) -> Iterator[str]:
    variants = {variant.model: variant for variant in manifest.variants}
    axes = [axis for entry in manifest.inputs for axis in entry.axes]
    names = [entry.name for entry in manifest.inputs]
    for model, entry in manifest.splits.items():
        where = f"splits[{model!r}]"
        if model not in variants:
            yield f"splits: expected graphs of the variants ({', '.join(variants)}), found {model!r}"
        elif bool(variants[model].routed) != bool(entry.routed):
            yield f"{where}.routed: expected {'a' if variants[model].routed else 'no'} routed graph, found {entry.routed!r}"
        elif bool(entry.slots) != (slots_file(model) in manifest.files):
            yield f"{where}.slots: expected {'no' if entry.slots else 'a'} graph with slots, found {entry.slots!r}"
        yield from entry.problems(where, manifest.files, names, axes)


def _input_problems(manifest: Manifest) -> Iterator[str]:
    yield from repeated("inputs", names := [entry.name for entry in manifest.inputs])
    for index, entry in enumerate(manifest.inputs):
        yield from entry.problems(f"inputs[{index}]")
    if not {"input_ids", "pixel_values", "input_features"} & set(names):
        yield f"inputs: expected input_ids, pixel_values or input_features among them, found {', '.join(names) or 'none'}"
    shapes = {entry.name: entry.shape for entry in manifest.inputs}
    if "token_type_ids" in shapes and shapes["token_type_ids"] != shapes.get("input_ids"):
        # run() derives token_type_ids from input_ids
        yield "inputs: expected token_type_ids only together with input_ids and with the same shape"
    axes = {axis for entry in manifest.inputs for axis in entry.axes} - {BATCH}
    for axis, length in manifest.max_lengths.items():
        if axis not in axes:
            yield f"max_lengths: expected axes of the inputs ({', '.join(sorted(axes)) or 'none'}), found {axis!r}"
        if length < 1:
            yield f"max_lengths[{axis!r}]: expected at least 1, found {length}"
        if length > LARGEST:
            yield f"max_lengths[{axis!r}]: expected at most {LARGEST:,}, found {shown(length)}"


def _file_problems(manifest: Manifest) -> Iterator[str]:
    yield from name_problems(manifest.files, MANIFEST, GRAPHS)
    for name, value in manifest.files.items():
        if not re.fullmatch("[0-9a-f]{64}", value):
            yield f"files[{name!r}]: expected a sha256 in lower-case hex, found {value!r}"
    if manifest.tokenizer and TOKENIZER not in manifest.files:
        yield f"tokenizer: is true, but files does not list {TOKENIZER}"
