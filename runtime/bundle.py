"""The bundle: the folder that an export writes, and its manifest `adapterdrop.json`.

`exporter.save` writes it through this module, and `runtime.load` reads it, so both agree by construction. The version
rule: a field that is added, removed or changes its meaning needs a new FORMAT_VERSION, because readers are strict.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final, Literal, get_args

from runtime._schema import decode, encode
from runtime.errors import BundleError

FORMAT_VERSION: Final = 1
MANIFEST: Final = "adapterdrop.json"
MODEL: Final = "model.onnx"
WEIGHTS: Final = "model.onnx.data"
TOKENIZER: Final = "tokenizer.json"

HeadType = Literal["classification", "multilabel", "regression", "tagging"]
HEADS: Final[tuple[HeadType, ...]] = get_args(HeadType)
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")

_EXPORT_AGAIN: Final = "export it again with `python -m exporter --output DIR`"


@dataclass(frozen=True)
class TaskEntry:
    """One task. `labels` in the order of the logits, empty for regression; `output`: name of the graph's output;
    `dropped`: indices (0 = lowest) of the layers in which this task has no adapter, ascending."""

    name: str
    head: HeadType
    labels: tuple[str, ...]
    output: str
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class ParityRow:
    """One comparison of a task's logits with single-task eager PyTorch at shape [batch, sequence].

    `max_abs_diff` and `tolerance` are in logits, `max_rel_diff` is relative to the largest reference logit,
    `argmax_agreement` is a share in 0..1.
    """

    task: str
    batch: int
    sequence: int
    max_abs_diff: float
    max_rel_diff: float
    argmax_agreement: float
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about itself; the JSON keys are these fields, in this order.

    `model`: file name of the graph; `inputs`: its input names; `max_length`: tokens in the longest row; `segments`:
    number of token types, 0 when the graph has no `token_type_ids`; `layers`: hidden layers of the trunk; `drop`: the
    number of lowest layers without adapters; `tokenizer`: whether tokenizer.json is there; `versions`: package ->
    version at export; `files`: name -> sha256 in hex of every file but the manifest.
    """

    format_version: int = FORMAT_VERSION
    model: str = MODEL
    inputs: tuple[str, ...]
    max_length: int
    vocab_size: int
    segments: int
    layers: int
    tasks: tuple[TaskEntry, ...]
    drop: int
    precision: str = "fp32"
    target: str = "portable"
    opset: int
    tokenizer: bool
    versions: Mapping[str, str]
    files: Mapping[str, str]
    parity: tuple[ParityRow, ...]

    def to_json(self) -> str:
        """Deterministic, indented JSON with a trailing newline. Raises ValueError on a NaN or an infinity."""
        return json.dumps(encode(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the manifest into `folder` and return its path. Raises BundleError, before a byte is written, where
        `read_manifest` would refuse it: a faulty bundle is the exporter's fault and must not reach a user."""
        path = Path(folder) / MANIFEST
        _refuse(path, list(_faults(self)))
        path.write_text(self.to_json(), encoding="utf-8", newline="\n")
        return path


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The checked manifest of the bundle in `folder`. Reads no other file; see `check_files`.

    Raises:
        BundleError: no folder, no manifest, a newer format, or a faulty field; all faulty fields are named at once.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        found = "there is no such folder" if not Path(folder).is_dir() else f"it has no {MANIFEST}"
        raise BundleError(f"{os.fspath(folder)}: not a bundle: {found}; make one with `python -m exporter --output DIR`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise BundleError(f"{path}: expected UTF-8 JSON, found: {error}; {_EXPORT_AGAIN}") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:  # before the fields: a newer format may have others
        raise BundleError(
            f"{path}: format_version: exported by a newer version (format {version}, this one reads {FORMAT_VERSION}); "
            "upgrade adapterdrop-onnx"
        )
    problems: list[str] = []
    manifest = decode(Manifest, document, "", problems)
    if not isinstance(document, dict):
        problems = [f"expected a JSON object, found {type(document).__name__}"]
    _refuse(path, problems)
    _refuse(path, list(_faults(manifest)))
    return manifest  # type: ignore[no-any-return]


def digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, in lower-case hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: str | os.PathLike[str], manifest: Manifest, contents: bool = True) -> None:
    """Raise BundleError naming every listed file that is missing or leaves the folder; with `contents`, also every file
    whose sha256 differs (truncated or altered; some 0.1 s per 100 MB). Files that the manifest does not list are ignored."""
    root = Path(folder).resolve()
    problems = []
    for name, expected in sorted(manifest.files.items()):
        path = root / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif not path.resolve().is_relative_to(root):
            problems.append(f"{name}: a link that leaves the folder; put the file itself there")
        elif contents and (found := digest(path)) != expected:
            problems.append(f"{name}: truncated or altered: expected sha256 {expected}, found {found}")
    if problems:
        raise BundleError(f"{os.fspath(folder)}: {'; '.join(problems)}; copy the bundle again or {_EXPORT_AGAIN}")


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise BundleError(f"{path}: {'; '.join(problems)}; {_EXPORT_AGAIN}")


def _faults(manifest: Manifest) -> Iterator[str]:
    """What is wrong with a manifest whose fields have the right types."""
    if manifest.format_version != FORMAT_VERSION:
        yield f"format_version: expected {FORMAT_VERSION}, found {manifest.format_version}"
    for field in ("max_length", "vocab_size", "layers", "opset"):
        if getattr(manifest, field) < 1:
            yield f"{field}: expected at least 1, found {getattr(manifest, field)}"
    if not 0 <= manifest.drop <= manifest.layers:
        yield f"drop: expected 0..{manifest.layers} (layers), found {manifest.drop}"
    yield from _input_faults(manifest)
    yield from _file_faults(manifest)
    if not manifest.tasks:
        yield "tasks: expected at least one, found none"
    yield from _repeated("tasks: name", (task.name for task in manifest.tasks))
    yield from _repeated("tasks: output", (task.output for task in manifest.tasks))
    for index, task in enumerate(manifest.tasks):
        yield from _task_faults(f"tasks[{index}]", task, manifest.layers)
    names = {task.name for task in manifest.tasks}
    for index, row in enumerate(manifest.parity):
        if row.task not in names:
            yield f"parity[{index}].task: expected a task of this bundle, found {row.task!r}"
        if not 0 <= row.argmax_agreement <= 1:
            yield f"parity[{index}].argmax_agreement: expected 0..1, found {row.argmax_agreement}"


def _input_faults(manifest: Manifest) -> Iterator[str]:
    yield from _repeated("inputs", manifest.inputs)
    for name in manifest.inputs:
        if name not in INPUTS:
            yield f"inputs: this version knows {', '.join(INPUTS)}, found {name!r}"
    if "input_ids" not in manifest.inputs:
        yield "inputs: expected input_ids among them"
    if manifest.segments < 0 or (manifest.segments > 0) != ("token_type_ids" in manifest.inputs):
        yield f"segments: expected at least 1 with the input token_type_ids and 0 without, found {manifest.segments}"


def _file_faults(manifest: Manifest) -> Iterator[str]:
    for name, value in manifest.files.items():
        # both flavours of path: a bundle may be written on one system and read on another
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name and name not in ("", "..") and "\0" not in name
        if not plain or name == MANIFEST:
            yield f"files: expected plain names of other files in the folder, found {name!r}"
        if not re.fullmatch("[0-9a-f]{64}", value):
            yield f"files[{name!r}]: expected a sha256 in lower-case hex, found {value!r}"
    if manifest.model not in manifest.files:
        yield f"model: expected one of the listed files, found {manifest.model!r}"
    if manifest.tokenizer and TOKENIZER not in manifest.files:
        yield f"tokenizer: is true, but files does not list {TOKENIZER}"


def _task_faults(where: str, task: TaskEntry, layers: int) -> Iterator[str]:
    for field in ("name", "output"):
        if not getattr(task, field):
            yield f"{where}.{field}: expected a name, found an empty string"
    if (task.head == "regression") != (not task.labels):
        yield f"{where}.labels: expected {'none' if task.head == 'regression' else 'some'} for {task.head}, found {task.labels}"
    yield from _repeated(f"{where}.labels", task.labels)
    if list(task.dropped) != sorted({index for index in task.dropped if 0 <= index < layers}):
        yield f"{where}.dropped: expected ascending layer indices in 0..{layers - 1}, found {list(task.dropped)}"


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what}: expected different names, found {name!r} {count} times"
