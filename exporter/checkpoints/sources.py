"""Where checkpoints come from: folders, hub ids, JSON files and weight files, each read or refused with a reason."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file

from exporter.errors import ExportError

Kind = Literal["model", "adapter", "fusion"]
# Who writes such a folder.
_WRITER: dict[Kind, str] = {
    "model": "model.save_pretrained(folder)",
    "adapter": "model.save_adapter(folder, name) or PEFT's save_pretrained(folder)",
    "fusion": "model.save_adapter_fusion(folder, names)",
}
_TEXTS = ("*.json", "*.txt", "*.model")
_SAFE = ("*.safetensors",)
# No other pickle than weights: optimizers, training arguments and other runtimes' files stay on the hub.
_PICKLES = ("pytorch_*.bin", "adapter_model.bin")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_NAME = re.compile(r"[^=/\\]*")


@dataclass(frozen=True)
class Source:
    """Attributes:
    text: what the user wrote, for messages.
    folder: where it lies on this machine.
    hub: its id if it came from the hub.
    """

    text: str
    folder: Path
    hub: str | None = None


def find(source: str | Path, kind: Kind) -> Source:
    """A local folder, or the local snapshot of a hub id, downloaded where the hub may be asked.

    Raises:
        ExportError: it is neither.
    """
    text = str(source)
    folder = Path(text).expanduser()
    if text and "\0" not in text and folder.is_dir():
        return Source(text, folder)
    if not _HUB_ID.fullmatch(text) or folder.is_file():
        raise ExportError(f"there is no {kind} folder {text!r}: expected what {_WRITER[kind]} writes, or a hub id")
    try:
        return Source(text, _download(text, kind), text)
    # requests' and the hub's own errors are OSErrors; an impossible id is a ValueError.
    except (OSError, ValueError) as error:
        raise ExportError(f"there is no {kind} folder {text!r}, and no such hub id can be had: {_hub_reason(error)}") from error


def _download(hub_id: str, kind: Kind) -> Path:
    if kind != "model":
        return Path(snapshot_download(hub_id, allow_patterns=[*_TEXTS, *_SAFE, *_PICKLES]))
    # Folders below hold what other libraries need: other weights of the same model among it.
    folder = Path(snapshot_download(hub_id, allow_patterns=[*_TEXTS, *_SAFE], ignore_patterns=["*/*"]))
    if not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(hub_id, allow_patterns=[*_TEXTS, *_PICKLES], ignore_patterns=["*/*"]))
    return folder


def _hub_reason(error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has none, or it is private: log in with `hf auth login`"
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return f"the local cache {constants.HF_HUB_CACHE} has none and {why}"
    return first_line(error)


def split_name(text: str) -> tuple[str | None, str]:
    """[NAME=]SOURCE as name and source.

    Raises:
        ExportError: it is no text, or the name or the source is empty.
    """
    if not isinstance(text, str | Path):
        raise ExportError(f"an adapter must be named as [NAME=]SOURCE, found {text!r}")
    text = str(text)
    name, sign, source = text.partition("=")
    if not sign or Path(text).expanduser().is_dir() or not _NAME.fullmatch(name):
        return None, text
    if not name or not source:
        raise ExportError(f"{text!r} has no {'source' if name else 'name'}: expected [NAME=]SOURCE, such as sst2=adapters/sst2")
    if "." in name:
        raise ExportError(f"the adapter name {name!r} has a dot, which PyTorch does not allow: choose another")
    return name, source


def read_json(path: Path, wrong: str = "must hold a JSON object: save it again") -> dict[str, Any]:
    """`wrong`: what is said of other JSON than an object.

    Raises:
        ExportError: there is no such file, or it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{str(path)!r} cannot be read as JSON ({error}): save it again") from error
    if not isinstance(content, dict):
        raise ExportError(f"{str(path)!r} {wrong}")
    return content


def read_weights(folder: Path, safe: str, pickled: str, what: str) -> dict[str, torch.Tensor]:
    """The tensors of `folder / safe`, or of `folder / pickled` where that is all there is.

    Raises:
        ExportError: neither file is there, or it is damaged, or it wants more of the unpickler than tensors.
    """
    path = next((folder / name for name in (safe, pickled) if (folder / name).is_file()), None)
    if path is None:
        raise ExportError(f"{what} has no weights: expected {safe} or {pickled}; save it again")
    return _read_file(path)


def read_all_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model folder, from however many files save_pretrained made of it.

    Raises:
        ExportError: as of `read_weights`.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return {key: value for path in files for key, value in _read_file(path).items()}


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        safe = path.suffix == ".safetensors"
        weights = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    # SafetensorError, UnpicklingError, RuntimeError, EOFError, …: whatever a damaged file provokes.
    except Exception as error:
        raise ExportError(f"{str(path)!r} cannot be loaded: {reason(error, path)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ExportError(f"{str(path)!r} must hold named tensors, found {type(weights).__name__}: save it again")
    return weights


def reason(error: BaseException, path: Path | None = None) -> str:
    """Why weights could not be loaded, on one line and without advice to load them unsafely."""
    if path is not None and path.read_bytes()[:8] == b"version ":
        return "it is a pointer of git-lfs; fetch the file with `git lfs pull`"
    for cause in _causes(error):
        if isinstance(cause, pickle.UnpicklingError):
            wanted = re.search(r"GLOBAL (\S+)", str(cause))
            if wanted:
                return f"its pickle wants {wanted[1].rstrip('.')}, which could run code; save the weights as safetensors"
            return "its pickle is damaged, or holds more than tensors; save the weights as safetensors"
    return first_line(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
