"""A bundle as a folder of files: that of a hub id is downloaded, and links are replaced by copies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exporter.errors import ExportError
from exporter.stored_tasks import open_exported
from runtime.bundle import MANIFEST
from runtime.errors import BundleError
from runtime.hub import Access, bundle_folder


@contextmanager
def local_bundle(folder: str | Path) -> Iterator[tuple[Path, Path]]:
    """Yield a folder with the files of a bundle, to be read only, and the folder where they were found.

    They are two if files are links, as in the cache of the hub: ONNX follows no link to weights in another folder.

    Args:
        folder: folder of the bundle, or its hub id.

    Raises:
        ExportError: there is no such bundle, or it cannot be downloaded or copied.
    """
    try:
        found = Path(bundle_folder(Path(folder).expanduser(), Access())[0])
    except BundleError as error:
        raise ExportError(str(error)) from error
    if not any(path.is_symlink() for path in found.glob("*")):
        yield found, found
        return
    manifest = open_exported(found)
    with TemporaryDirectory() as copy:
        try:
            for name in (MANIFEST, *manifest.files):
                target = Path(copy) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found / name, target)
        except OSError as error:
            raise ExportError(f"{found} cannot be copied to {copy}: {error.strerror or error}") from error
        yield Path(copy), found
