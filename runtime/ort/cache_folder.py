"""Cache folder for machine-specific files: packed weights, engines, compiled graphs."""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from runtime.bundle import Manifest
from runtime.errors import InputError
from runtime.import_ort import ort
from runtime.ort.cpu_info import processor

# Part of the cache key: with another version, a cached engine or packed weight may fail to load, or load and be wrong.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")


def cache_folder(root: str | os.PathLike[str], manifest: Manifest, purpose: str, settings: str = "") -> Path:
    """Create the cache folder for one purpose, or find an existing one.

    The name contains a hash of the bundle's files, the settings, the library versions and the CPU, so that another bundle,
    release or machine never reads these files.

    Args:
        root: folder that holds all caches, `Options.cache`.
        manifest: manifest of the bundle.
        purpose: prefix of the folder name, such as "packed".
        settings: text form of the provider options that affect the cached files.

    Returns:
        Path of the folder.

    Raises:
        InputError: the folder cannot be created or is not writable.
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
        f"options.cache: cannot write to {os.fspath(root)}: {reason}; give a writable folder, or None to disable the cache"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
