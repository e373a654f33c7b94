"""Reading of JSON files and weight files, with errors that state the reason."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from exporter.errors import ExportError

# The reason why a model of custom code is refused.
CUSTOM_CODE = "it needs code from the folder, which is never run; load it yourself and give the live model to exporter.export"


def read_json(path: Path, wrong: str = "must contain a JSON object: save it again") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        wrong: the end of the error message if the file contains JSON of another type.

    Raises:
        ExportError: the file cannot be read, or does not contain a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{str(path)!r} cannot be read as JSON ({error}): save it again") from error
    if not isinstance(content, dict):
        raise ExportError(f"{str(path)!r} {wrong}")
    return content


def read_weights(folder: Path, safe: str, pickled: str, what: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file, or of a pickle file if that is the only one.

    Args:
        folder: the folder of the files.
        safe: the name of the safetensors file.
        pickled: the name of the pickle file.
        what: a description of the weights, for messages.

    Raises:
        ExportError: both files are missing, the file is damaged, or the pickle contains more than tensors.
    """
    path = next((folder / name for name in (safe, pickled) if (folder / name).is_file()), None)
    if path is None:
        raise ExportError(f"{what} has no weights: expected {safe} or {pickled}; save it again")
    return _read_file(path)


def read_all_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a model folder from all of its weight files.

    Raises:
        ExportError: as in `read_weights`.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return {key: value for path in files for key, value in _read_file(path).items()}


def stored_bytes(folder: Path) -> int:
    """Return the size of all weight files of a model folder."""
    return sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern) if path.is_file())


def stored_shapes(folder: Path) -> list[tuple[int, ...]] | None:
    """Return the shapes of the tensors in the safetensors files of a folder; None if they are not known."""
    shapes: list[tuple[int, ...]] = []
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as weights:
                shapes += [tuple(weights.get_slice(name).get_shape()) for name in weights.keys()]  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError):  # reported when the weights are loaded
            return None
    return shapes or None


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        safe = path.suffix == ".safetensors"
        weights = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    # Damaged files raise many types: SafetensorError, UnpicklingError, RuntimeError, EOFError, …
    except Exception as error:
        raise ExportError(f"{str(path)!r} cannot be loaded: {reason(error, path)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ExportError(f"{str(path)!r} must contain named tensors, found {type(weights).__name__}: save it again")
    return weights


def reason(error: BaseException, path: Path | None = None) -> str:
    """Return why weights could not be loaded, on one line and without torch's advice to load them unsafely."""
    if path is not None and path.read_bytes()[:8] == b"version ":
        return "it is a git-lfs pointer; fetch the file with `git lfs pull`"
    for cause in _causes(error):
        if isinstance(cause, pickle.UnpicklingError):
            wanted = re.search(r"GLOBAL (\S+)", str(cause))
            if wanted:
                return f"its pickle imports {wanted[1].rstrip('.')}, which could run code; save the weights as safetensors"
            return "its pickle is damaged, or contains more than tensors; save the weights as safetensors"
        if "trust_remote_code" in str(cause):
            return CUSTOM_CODE
    return first_line(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """Return the first line of an error message that says more than its heading.

    A message that is a single name, as that of a KeyError, or empty, gets the type of the error.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"{type(error).__name__}: {lines[0]}"
    # "Error(s) in loading state_dict for Linear:" and "BertLayer(" have their reason in the next line, or nowhere
    return f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
