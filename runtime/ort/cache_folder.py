"""The folder for what is made for one machine: packed weights, engines, compiled graphs."""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from runtime.bundle import Manifest
from runtime.errors import InputError
from runtime.import_ort import ort
from runtime.ort.cpu_info import processor

# Where any of these differs, a cached engine or packed weight may not load, or worse, load and be wrong.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")


def cache_folder(root: str | os.PathLike[str], manifest: Manifest, purpose: str, settings: str = "") -> Path:
    """The folder for `purpose` under `root`, made if need be. Its name is a hash of the bundle's files, of `settings`, of the
    libraries' versions and of the processor, so that another bundle, release or machine never meets it.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    versions = [f"{name} {found}" for name in _PACKAGES if (found := _version(name))]
    parts = [*sorted(f"{name} {digest}" for name, digest in manifest.files.items()), settings, ort.__version__, *versions]
    parts += [platform.machine(), processor()]
    folder = Path(root) / f"{purpose}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(root, error) from error
    if not os.access(folder, os.W_OK):
        raise _unusable(root, PermissionError(13, "not writable"))
    return folder


def _unusable(root: str | os.PathLike[str], error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"options.cache: cannot write to {os.fspath(root)}: {reason}; give a writable folder or None, which keeps nothing"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
