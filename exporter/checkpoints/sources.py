"""Sources of models and adapters: folders, and hub ids that are downloaded."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download

from exporter.checkpoints.sentence_layout import encoder_of, module_folders
from exporter.errors import ExportError
from runtime.hub import Access, HubId, hub_id
from runtime.hub import reason as hub_reason

# In place of an adapter's source: the model itself, with its own head.
BASE = "base"
Kind = Literal["model", "adapter", "fusion"]
# The call that writes such a folder.
_WRITER: dict[Kind, str] = {
    "model": "model.save_pretrained(folder)",
    "adapter": "model.save_adapter(folder, name) or PEFT's save_pretrained(folder)",
    "fusion": "model.save_adapter_fusion(folder, names)",
}
_TEXTS = ("*.json", "*.txt", "*.model", "*.codes", "*.bpe", "*.spm", "*.tokenizer")
_SAFE = ("*.safetensors",)
# Only pickles of weights are downloaded, not optimizer states, training arguments or files of other runtimes.
_PICKLES = ("pytorch_*.bin", "adapter_model.bin")
# A relative path of plain names, which no ".." leaves.
_SUBFOLDER = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_NAME = re.compile(r"[^=/\\]*")


@dataclass(frozen=True)
class Source:
    """A local folder, possibly downloaded from the hub.

    Attributes:
        text: the user's input, for messages.
        folder: the local path.
        hub: the hub id, if it was downloaded.
    """

    text: str
    folder: Path
    hub: str | None = None


def find(source: str | Path, kind: Kind, access: Access = Access()) -> Source:  # noqa: B008  # frozen
    """Find a local folder, or the snapshot of a hub id, which is downloaded unless the hub is offline.

    Args:
        source: a path or a hub id, HUB_ID@REVISION, or either of them with :SUBFOLDER.
        kind: what the folder contains, for messages and the choice of files to download.
        access: token and cache of the hub.

    Raises:
        ExportError: `source` is neither a folder nor a hub id that is available.
    """
    text = str(source)
    folder = Path(text).expanduser()
    if text and is_folder(folder):
        check_regular(folder)
        return _encoder(Source(text, folder), kind)
    whole, colon, subfolder = text.rpartition(":")
    if colon and _SUBFOLDER.fullmatch(subfolder) and (hub_id(whole) or is_folder(Path(whole).expanduser())):
        return _find_below(text, whole, subfolder, kind, access)
    found = hub_id(text)
    if found is None or _is(folder.is_file, folder):
        # Also for text such as "a..b", which the hub refuses itself
        raise ExportError(f"there is no {kind} folder {text!r}: expected a folder of {_WRITER[kind]}, or a hub id")
    try:
        return _encoder(Source(text, _download(found, kind, access), found.repository), kind)
    # The errors of requests and httpx have no common base; an invalid id raises ValueError.
    except Exception as error:
        why = hub_reason(error, access, found.revision)
        raise ExportError(f"there is no {kind} folder {text!r}, and the hub id is not available: {why}") from error


def _find_below(text: str, whole: str, subfolder: str, kind: Kind, access: Access) -> Source:
    """Find a subfolder, as from_pretrained with that argument."""
    local, found = Path(whole).expanduser(), hub_id(whole)
    is_local = is_folder(local)
    try:
        folder = local if found is None or is_local else _download(found, kind, access, f"{subfolder}/")
    except Exception as error:  # as in find
        why = hub_reason(error, access, found.revision if found else None)
        raise ExportError(f"the hub id {whole!r} of {text!r} is not available: {why}") from error
    if not is_folder(folder / subfolder):
        raise ExportError(f"{whole!r} has no subfolder {subfolder!r}: expected SOURCE:SUBFOLDER, found {text!r}")
    hub = None if is_local or found is None or kind != "model" else found.repository
    return _encoder(Source(text, folder / subfolder, hub), kind)


def _encoder(source: Source, kind: Kind) -> Source:
    """The source of the model itself, which old folders of sentence-transformers have in a subfolder."""
    folder = encoder_of(source.folder) if kind == "model" else source.folder
    if folder != source.folder:
        check_regular(folder)
    return replace(source, folder=folder)


def located(model: Any, revision: str | None, subfolder: str) -> Any:
    """Return the model with its revision and its subfolder, as `find` reads them.

    Raises:
        ExportError: the model is not a folder or hub id, has a revision already, or the subfolder is not a relative path.
    """
    if revision is None and not subfolder:
        return model
    given = " and ".join(name for name, value in (("revision", revision), ("subfolder", subfolder)) if value)
    if not isinstance(model, str | Path):
        raise ExportError(
            f"{given}: expected a model folder or hub id, found {'no model' if model is None else type(model).__name__}"
        )
    text = str(model)
    if revision is not None and (is_folder(Path(text).expanduser()) or "@" in text or hub_id(f"{text}@{revision}") is None):
        raise ExportError(
            f"revision: expected a branch, tag or commit for a hub id that names none, found {revision!r} for {text!r}"
        )
    if subfolder and not _SUBFOLDER.fullmatch(subfolder):
        raise ExportError(f"subfolder: expected a relative path of plain names, found {subfolder!r}")
    return text + (f"@{revision}" if revision else "") + (f":{subfolder}" if subfolder else "")


def is_folder(path: Path) -> bool:
    """Return whether the path is a folder; False for what cannot be a path, for example because it is too long.

    Raises:
        ExportError: the folder that contains it cannot be read.
    """
    return _is(path.is_dir, path)


def check_regular(folder: Path) -> None:
    """Check that what may be read in a folder are files: a device or a pipe would be read without an end.

    Raises:
        ExportError: the folder cannot be read, or a device, pipe or socket has the name of a file that may be read.
    """
    patterns = (*_TEXTS, *_SAFE, *_PICKLES, "*.jinja")
    try:
        for path in sorted(folder.iterdir()):
            kind = stat.S_IFMT(path.stat().st_mode) if path.exists() else stat.S_IFREG
            if kind not in (stat.S_IFREG, stat.S_IFDIR) and any(path.match(pattern) for pattern in patterns):
                raise ExportError(f"{str(path)!r} is a device, a pipe or a socket: expected a file; copy the complete folder")
    except OSError as error:
        raise ExportError(f"{error.filename or str(folder)!r} cannot be read: {error.strerror or error}") from error


def _is(kind: Callable[[], bool], path: Path) -> bool:
    try:
        return kind()
    except ValueError:
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            return False
        raise ExportError(f"the folder {str(path)!r} cannot be read: {error.strerror}") from error


def _download(found: HubId, kind: Kind, access: Access, subfolder: str = "") -> Path:
    def snapshot(*patterns: str, **more: Any) -> Path:
        allowed = [f"{subfolder}{pattern}" for pattern in patterns]
        at: dict[str, Any] = {"revision": found.revision, "token": access.token, "cache_dir": access.cache_dir}
        return Path(snapshot_download(found.repository, allow_patterns=allowed, **at, **more))

    if kind != "model":
        return snapshot(*_TEXTS, *_SAFE, *_PICKLES)
    # Subfolders contain files for other libraries, among them other weights of the same model.
    below = {"ignore_patterns": [f"{subfolder}*/*"]}
    folder = snapshot(*_TEXTS, *_SAFE, **below)
    if not any((folder / subfolder).glob("*.safetensors")):
        folder = snapshot(*_TEXTS, *_PICKLES, **below)
    # The modules of sentence-transformers, such as 1_Pooling.
    for path in module_folders(folder / subfolder):
        snapshot(*(f"{path}/{pattern}" for pattern in (*_TEXTS, *_SAFE)))
        if not any((folder / subfolder / path).glob("*.safetensors")):
            snapshot(*(f"{path}/{pattern}" for pattern in _PICKLES))
    return folder


def split_name(text: str) -> tuple[str | None, str]:
    """Split [NAME=]SOURCE into name and source; the name is None if it is not given.

    Raises:
        ExportError: `text` is not a string or path, the name or the source is empty, or the name contains a dot.
    """
    if not isinstance(text, str | Path):
        raise ExportError(f"an adapter must be given as [NAME=]SOURCE, found {text!r}")
    text = str(text)
    name, sign, source = text.partition("=")
    if not sign or is_folder(Path(text).expanduser()) or not _NAME.fullmatch(name):
        return None, text
    if not name or not source:
        raise ExportError(f"{text!r} has no {'source' if name else 'name'}: expected [NAME=]SOURCE, such as sst2=adapters/sst2")
    if "." in name:
        raise ExportError(f"the adapter name {name!r} contains a dot, which PyTorch does not allow: choose another name")
    return name, source


def is_base(source: str) -> bool:
    """Return whether the source of a task is the word for the model itself, with its own head; a folder of that name is not."""
    return source == BASE and not is_folder(Path(source))


def check_base_names(named: Iterable[tuple[str | None, str]]) -> None:
    """Check that the base model's own head has a name wherever it is a task.

    Args:
        named: name and source of each.

    Raises:
        ExportError: it has none.
    """
    if any(name is None and is_base(source) for name, source in named):
        raise ExportError(f"the task of the model's own head has no name: expected NAME={BASE}, such as topics={BASE}")
