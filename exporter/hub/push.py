"""Publishes a bundle on the Hugging Face hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from exporter.errors import ExportError
from exporter.hub.card import MARKER, card
from runtime.bundle import MANIFEST, BoundFolder, open_bundle
from runtime.errors import BundleError
from runtime.hub import INSTALL, Access, hub_id, reason

CARD = "README.md"

# Status of an answer -> what happened; the same command does it again.
_AGAIN: Final = {
    409: "another commit was made at the same time",
    412: "another commit was made",
    429: "the hub limits requests",
}


@dataclass(frozen=True)
class Pushed:
    """The result of `push`.

    Attributes:
        url: address of the pull request, or of the repository.
        commit: the commit that was made; the last one if nothing has changed.
        files: names of the files of the bundle.
        card: whether the model card was written; a card of another author is kept.
        removed: names of the files of an earlier push that were removed.
    """

    url: str
    commit: str
    files: tuple[str, ...]
    card: bool
    removed: tuple[str, ...]


def push(
    folder: str | Path,
    repository: str,
    private: bool = False,
    create_pr: bool = False,
    base_model: str = "",
    token: str | bool | None = None,
) -> Pushed:
    """Publish a bundle on the hub in one commit, with a model card made from its manifest.

    Only the manifest and the files that it lists are published, after they were compared with their hashes. The same commit
    removes the files of an earlier push that the bundle no longer has. The repository is created if it does not exist.

    Args:
        folder: a folder that an export wrote.
        repository: hub id "organisation/name".
        private: create a private repository; an existing public one is refused.
        create_pr: open a pull request instead of a commit on the default branch.
        base_model: hub id of the model that the adapters were trained on, for the card.
        token: a token that may write; None for HF_TOKEN or that of `hf auth login`.

    Raises:
        ExportError: the folder is not a bundle or is damaged, an id is malformed, or the hub cannot be reached or refuses.
    """
    found, base = hub_id(repository), hub_id(base_model)
    if found is None or found.revision or "/" not in found.repository:
        raise ExportError(f"expected the hub id of a repository, organisation/name, found {repository!r}")
    if base_model and (base is None or base.revision):
        raise ExportError(f"base model: expected a hub id, organisation/name, found {base_model!r}")
    try:
        manifest, files = open_bundle(folder)
        files.bind(manifest.files)
    except BundleError as error:
        raise ExportError(str(error)) from error
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ExportError(f"to push, {INSTALL}") from error
    operations = [_operation(hub, files, name) for name in [MANIFEST, *sorted(manifest.files)]]
    api = hub.HfApi(token=token, library_name="adapterdrop-onnx")
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private:
            _check_private(api, repository)
        own_card = _has_own_card(api, repository)
        if not own_card:
            sizes = {each.path_in_repo: each.upload_info.size for each in operations}
            content = card(manifest, sizes, repository, base_model).encode()
            operations.append(hub.CommitOperationAdd(CARD, content))
        names = {each.path_in_repo for each in operations}
        removed = _left_over(api, repository, names)
        operations += [hub.CommitOperationDelete(name) for name in removed]
        message = f"Upload of {len(manifest.tasks)} tasks with adapterdrop-onnx"
        done = api.create_commit(repository, operations, commit_message=message, create_pr=create_pr)
    except ExportError:
        raise
    except Exception as error:  # the exceptions of requests and httpx have no common base
        raise ExportError(f"{repository} cannot be pushed: {_why(error, repository, create_pr)}") from error
    url = done.pr_url if create_pr and done.pr_url else f"{api.endpoint}/{repository}"
    return Pushed(url, done.oid, tuple(manifest.files), not own_card, tuple(removed))


def _operation(hub: Any, files: BoundFolder, name: str) -> Any:
    """Return the addition of a file with the bytes that were compared."""
    operation = hub.CommitOperationAdd(name, "/".join(files.place(name)))
    if operation.upload_info.sha256.hex() != files.hashes[name]:
        raise ExportError(f"{files.shown}: {name} was changed while it was read: push again")
    return operation


def _check_private(api: Any, repository: str) -> None:
    """The hub ignores the wish for a private repository if a public one exists."""
    if not api.repo_info(repository).private:
        raise ExportError(f"{repository} exists and is public: make it private in its settings, or push without --private")


def _left_over(api: Any, repository: str, names: Collection[str]) -> list[str]:
    """Return the files of the bundle in a repository that have none of these names, such as graphs of another layout.

    Programs that know no manifest would find them, next to the configuration of the new bundle.
    """
    if not api.file_exists(repository, MANIFEST):
        return []
    try:
        listed = json.loads(Path(api.hf_hub_download(repository, MANIFEST)).read_bytes())["files"]
        before = {name for name in listed if isinstance(name, str)} - {CARD, *names}
    except (KeyError, TypeError, ValueError, RecursionError):  # no manifest of ours
        return []
    return sorted(before.intersection(api.list_repo_files(repository)))


def _has_own_card(api: Any, repository: str) -> bool:
    """Whether the repository has a card that no push wrote."""
    if not api.file_exists(repository, CARD):
        return False
    return MARKER not in Path(api.hf_hub_download(repository, CARD)).read_text(encoding="utf-8", errors="replace")


def _why(error: Exception, repository: str, create_pr: bool) -> str:
    errors: Any = importlib.import_module("huggingface_hub.errors")
    status = _status(error)
    owner = repository.partition("/")[0]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to push"
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return "there is no token, or it is not valid: log in with `hf auth login` and a token that may write"
    if status == 403:
        other = "" if create_pr else ", or open a pull request with --create-pr"
        return f"the token may not write there: use one with write permission for {owner}{other}"
    if status is not None and (what := _AGAIN.get(status, "the hub failed" if status >= 500 else "")):
        return f"{what} (status {status}); nothing was committed: push again later"
    if isinstance(error, json.JSONDecodeError | KeyError):
        return f"the answer is not that of a hub ({type(error).__name__}: {error}): check HF_ENDPOINT and the proxy"
    if status is None and not isinstance(error, errors.HfHubHTTPError):
        return f"the hub cannot be reached ({type(error).__name__})" if _is_connection(error) else reason(error, Access())
    return reason(error, Access())


def _status(error: BaseException) -> int | None:
    """The status of the response in an error or in one that caused it, as that of a file's upload."""
    each: BaseException | None = error
    while each is not None:
        if (status := getattr(getattr(each, "response", None), "status_code", None)) is not None:
            return int(status)
        each = each.__cause__
    return None


def _is_connection(error: Exception) -> bool:
    return "Connect" in type(error).__name__ or "Timeout" in type(error).__name__
