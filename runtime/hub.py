"""Bundles of the Hugging Face hub: from an id to the folder of a snapshot, which has only the files that the manifest lists.

huggingface_hub is imported when an id is given. Services that run local folders do not need it.
"""

import glob
import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.bundle import MANIFEST, read_manifest
from runtime.errors import BundleError

_NAME: Final = r"\w[\w.-]*"
_ID: Final = re.compile(rf"(?P<repository>{_NAME}(/{_NAME})?)(@(?P<revision>\w[\w./+-]*))?", re.ASCII)
INSTALL: Final = "install huggingface_hub: `pip install huggingface_hub`"
_LOGIN: Final = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubId:
    """A repository of the hub.

    Attributes:
        repository: "organisation/name"; only "name" for some old models.
        revision: branch, tag or commit; None for the default branch.
    """

    repository: str
    revision: str | None = None


@dataclass(frozen=True)
class Access:
    """How the hub is reached.

    Attributes:
        token: a token, True for the stored one, False for none; None for HF_TOKEN or the stored one, if there is one.
        cache_dir: folder of the cache; None for HF_HUB_CACHE or its default.
    """

    token: str | bool | None = None
    cache_dir: str | None = None

    def __repr__(self) -> str:
        """Show the folder; a token is a secret."""
        return f"Access(cache_dir={self.cache_dir!r})"


def hub_id(text: str) -> HubId | None:
    """Read `name`, `organisation/name` or `organisation/name@revision`; None for other texts."""
    found = _ID.fullmatch(text)
    # ".." would lead out of the cache, which has a file for each revision
    return HubId(found["repository"], found["revision"]) if found and ".." not in text else None


def bundle_folder(source: str | os.PathLike[str], access: Access) -> tuple[str, str | None]:
    """Find the folder of a bundle, which is downloaded if `source` is a hub id and no folder.

    Only the manifest and the files that it lists are downloaded, all of one commit. What is in the cache is not downloaded
    again; a commit that is there needs no request.

    Args:
        source: a folder, or `organisation/name[@revision]`.
        access: token and cache.

    Returns:
        The folder, and the hub id with its commit; None for a local folder.

    Raises:
        BundleError: the hub or the revision is not available, a file is missing, a subfolder is named, or huggingface_hub is
            not installed.
    """
    text = os.fspath(source)
    found = hub_id(text)
    if found is None or "/" not in found.repository or Path(text).exists():
        above, _, below = text.partition(":")
        if below and "/" in above and hub_id(above) and not Path(text).exists():
            command = f"hf download {above.replace('@', ' --revision ')} --include '{below}/*' --local-dir DIR"
            what = "there is no such folder, and no subfolder of the hub is loaded"
            raise BundleError(f"{text}: {what}: run `{command}`, then load DIR/{below}")
        return text, None
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise BundleError(f"{text}: there is no such folder, and for a hub id, {INSTALL}") from error
    options = {"token": access.token, "cache_dir": access.cache_dir, "library_name": "adapterdrop-onnx"}
    try:
        folder = Path(hub.hf_hub_download(found.repository, MANIFEST, revision=found.revision, **options)).parent
    except Exception as error:  # the exceptions of requests and httpx have no common base
        what = "there is no such folder, and the hub id is not available"
        raise BundleError(f"{text}: {what}: {reason(error, access, found.revision, MANIFEST)}") from error
    try:
        names = [name for name in read_manifest(folder).files if not (folder / name).is_file()]
    except BundleError as error:
        raise BundleError(f"{text}: {error}; if the download is damaged, remove that file to download it again") from error
    if names:
        commit = folder.name  # of the manifest: the branch may have moved on since
        try:
            patterns = [glob.escape(name) for name in names]
            hub.snapshot_download(found.repository, revision=commit, allow_patterns=patterns, **options)
            # Offline, snapshot_download returns what is there. This call says why a file is not.
            for name in (name for name in names if not (folder / name).is_file()):
                hub.hf_hub_download(found.repository, name, revision=commit, **options)
        except Exception as error:
            missing = ", ".join(name for name in names if not (folder / name).is_file())
            why = reason(error, access, commit, missing)
            raise BundleError(f"{text}: the download in {folder} is incomplete, it lacks {missing}: {why}") from error
    return os.fspath(folder), f"{found.repository}@{folder.name}"


def reason(error: BaseException, access: Access, revision: str | None = None, file: str = "") -> str:
    """Return in one line why the hub did not answer.

    Args:
        error: an exception of huggingface_hub, requests or httpx.
        access: the token and the cache of the call.
        revision: the revision that was requested.
        file: the file that was requested.
    """
    errors: Any = importlib.import_module("huggingface_hub.errors")
    constants: Any = importlib.import_module("huggingface_hub.constants")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: request access on its page, then {_LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it does not exist, or it is private: {_LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}: expected a branch, a tag or a commit"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        offline = constants.HF_HUB_OFFLINE
        cause = _cause(error)
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached" + (f" ({cause})" if cause else "")
        return f"it is not in the local cache {access.cache_dir or constants.HF_HUB_CACHE} and {why}"
    if isinstance(error, errors.EntryNotFoundError):
        how = ": it is not a bundle; `python -m exporter push` publishes one" if file == MANIFEST else "; push the bundle again"
        return f"the repository has no {file} at this revision{how}"
    if status in (401, 403):
        return f"the token is not accepted or lacks a permission: {_LOGIN}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cause(error: BaseException) -> str:
    """The name of the error of the connection below an error of the hub."""
    below = error.__cause__
    while below is not None and "huggingface_hub" in type(below).__module__:
        below = below.__cause__
    return type(below).__name__ if below else ""
