"""A request for advice, the key under which measurements are kept, and the command that exports the answer."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import platform
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.checkpoints.sources import find, is_base, split_name
from exporter.errors import ExportError
from exporter.example import base_model_folder, example_folder

_PACKAGES = ("adapterdrop-onnx", "torch", "transformers", "onnxruntime", "adapters", "peft")
_READ = (".safetensors", ".bin", ".json", ".txt", ".model", ".codes", ".bpe", ".spm", ".tokenizer", ".jinja")
_EXPORTED = "onnx-advised"


@dataclass(frozen=True)
class Request:
    """The model, the labelled texts and the limits.

    Attributes:
        evaluation: task -> file of labelled texts.
        model: folder or hub id; None for the bundled example.
        adapters: [NAME=]SOURCE, as for an export.
        fusions: SOURCE, as for an export.
        pooling: adapter -> pooling, as for an export.
        heads: task -> file of a linear classifier, as for an export.
        tasks: names, or name -> adapter; None for those of the model.
        precision: precision of the graphs.
        target: target of the graphs, one that the CPU provider runs.
        int8_ranges: ranges of activations in int8; None for the default of the target.
        calibration: texts for fusion members and ranges; None for the evaluation file of the fusion.
        keep_fused: numbers of members to try besides all; None for a quarter and a half of them.
        shape: (batch, length) of the timed calls; None for one text of 64 tokens, or the longest that the model takes.
        threads: threads within an operator; None for ONNX Runtime's default.
        max_loss: share of its metric that each task may lose; None where only the latency limits.
        latency: seconds for a call; None for no limit.
        max_drop: largest drop that is considered; None for all layers.
        limit: texts per task, evenly spaced in each file.
    """

    evaluation: Mapping[str, str]
    model: str | None = None
    adapters: Sequence[str] = ()
    fusions: Sequence[str] = ()
    pooling: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] | Mapping[str, str] | None = None
    precision: str = "fp32"
    target: str = "portable"
    int8_ranges: str | None = None
    calibration: str | None = None
    keep_fused: Sequence[int] | None = None
    shape: tuple[int, int] | None = None
    threads: int | None = None
    max_loss: float | None = 0.01
    latency: float | None = None
    max_drop: int | None = None
    limit: int = 1000

    def key(self) -> str:
        """Return a digest of everything on which a measured metric depends: files, options and versions."""
        digest = hashlib.sha256()
        options = (self.tasks, self.precision, self.target, self.int8_ranges, self.max_drop, self.limit)
        sources = (self.model, self.adapters, self.fusions, self.pooling, self.heads)
        for each in (options, sources, platform.machine(), _versions(), list(_model_files(self))):
            digest.update(json.dumps(each, default=list, sort_keys=True).encode() + b"\0")
        texts = {f"{task}=": file for task, file in self.evaluation.items()}
        texts |= {f"head {task}": file for task, file in self.heads.items()}
        texts |= {} if self.calibration is None else {"calibration": self.calibration}
        for name, file in sorted(texts.items()):
            digest.update(f"{name}{Path(file).suffix}\0".encode())
            digest.update(_sha256(Path(file)))
        return digest.hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _model_files(request: Request) -> Iterator[tuple[str, str]]:
    """Yield name and digest of the files in the folders of the model; copies may keep the size and the time of another one."""
    folders = [base_model_folder(), example_folder()] if request.model is None else [find(request.model, "model").folder]
    for text in request.adapters:
        _, source = split_name(text)
        folders += [] if is_base(source) else [find(source, "adapter").folder]
    folders += [find(source, "fusion").folder for source in request.fusions]
    for number, folder in enumerate(folders):
        # What a model is read from is in its folder and the folders in it.
        for path in sorted((*folder.glob("*"), *folder.glob("*/*"), *folder.glob("*/*/*"))):
            if path.is_file() and path.suffix in _READ:
                yield f"{number}/{path.relative_to(folder)}", _sha256(path).hex()


def _sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise ExportError(f"the file {str(path)!r} cannot be read: {getattr(error, 'strerror', error)}") from error


def export_command(request: Request, drops: Mapping[str, int], keep: int | None, calibration: str | None, is_part: bool) -> str:
    """Return the command line that exports a combination, quoted for a shell.

    Args:
        request: the request.
        drops: task -> drop.
        keep: the number of fusion members kept; None for all.
        calibration: the texts by which they are chosen.
        is_part: whether the model has other tasks too.
    """
    words: list[Any] = ["python", "-m", "exporter"]
    words += [] if request.model is None else ["--model", request.model]
    for option, values in (("--adapter", request.adapters), ("--fusion", request.fusions)):
        words += [word for value in values for word in (option, value)]
    words += [word for name, value in request.pooling.items() for word in ("--pooling", f"{name}={value}")]
    words += [word for name, value in request.heads.items() for word in ("--head", f"{name}={value}")]
    if is_part or request.tasks is not None:
        adapters = request.tasks if isinstance(request.tasks, Mapping) else {}
        words += ["--tasks", _joined(f"{name}={adapters[name]}" if name in adapters else name for name in drops)]
    same = len(set(drops.values())) == 1
    words += ["--drop", str(*set(drops.values())) if same else _joined(f"{name}={drop}" for name, drop in drops.items())]
    words += [] if keep is None else ["--keep-fused", str(keep)]
    words += [] if calibration is None else ["--calibration", calibration]
    words += [] if request.precision == "fp32" else ["--precision", request.precision]
    words += [] if request.target == "portable" else ["--target", request.target]
    words += [] if request.int8_ranges is None else ["--int8-ranges", request.int8_ranges]
    words += ["--output", _EXPORTED, *(["--overwrite"] if Path(_EXPORTED).exists() else [])]
    return shlex.join(words)


def _joined(names: Iterable[str]) -> str:
    """Join names with commas, those with a comma in double quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()
