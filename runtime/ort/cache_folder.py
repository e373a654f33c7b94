"""Cache folder for machine-specific files: packed weights, engines, compiled graphs."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import stat
from pathlib import Path

from runtime.bundle import Manifest
from runtime.bundle.scratch import owned
from runtime.errors import InputError
from runtime.import_ort import ort
from runtime.ort.cpu import processor
from runtime.ort.known_providers import PLUGINS

# Part of the cache key: with another version, a cached engine or packed weight may fail to load, or load and be wrong.
_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    *(package for plugin in PLUGINS.values() for package in plugin.packages),
)


def cache_folder(root: str | os.PathLike[str], manifest: Manifest, purpose: str, settings: str = "") -> Path:
    """Create the cache folder for one purpose, or find an existing one.

    The name contains a hash of the bundle's files, the settings, the library versions and the CPU, so that another bundle,
    release or machine never reads these files.

    The files in the folder are loaded, so only the current user may be able to write them. If the name is a link or a folder
    of another user, the number of the user is appended to it.

    `purpose` is the prefix of its name, such as "packed"; `settings` are the options that affect its files.

    Raises:
        InputError: the folder cannot be created or is not writable, or both names are taken.
    """
    versions = [f"{name} {found}" for name in _PACKAGES if (found := _version(name))]
    parts = [*sorted(f"{name} {digest}" for name, digest in manifest.files.items()), settings, ort.__version__, *versions]
    parts += [platform.machine(), processor()]
    name = f"{purpose}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}"
    place = Path(root).absolute()  # providers keep the path, and the working directory may change
    own = (name, f"{name}-{os.geteuid()}") if hasattr(os, "geteuid") else (name,)
    try:
        place.mkdir(parents=True, exist_ok=True)
        folder = next((place / each for each in own if _private(place / each)), None)
    except OSError as error:
        raise _unusable(root, error) from error
    if folder is None:
        raise _unusable(root, PermissionError(13, f"{', '.join(own)} belong to another user, or are links"))
    if not os.access(folder, os.W_OK):
        raise _unusable(root, PermissionError(13, "not writable"))
    return folder


def _private(folder: Path) -> bool:
    """Create a folder that only the current user can read and write, or make an existing one private.

    A folder that other users could write is emptied.

    Returns:
        Whether the folder can be used: not if it is a link or a folder of another user.

    Raises:
        OSError: it cannot be created or changed.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not owned(folder):
            return False
    else:
        return True
    if os.name == "posix":
        if stat.S_IMODE(folder.lstat().st_mode) & 0o022:
            shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
        folder.chmod(0o700)
    return True


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
