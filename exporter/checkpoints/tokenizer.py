"""Loading of tokenizers: fast ones as they are, slow ones converted where transformers can, all others refused by name."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS

from exporter.checkpoints.files import first_line, read_json
from exporter.checkpoints.vocabulary_files import longest_token
from exporter.errors import ExportError
from runtime.text.tokenizer_bounds import LONGEST_TOKEN, excesses

_FAST = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
# Vocabularies of transformers' tokenizers.
_SENTENCEPIECE = (
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "spm_char.model", "tokenizer.model"),
    *("source.spm", "target.spm"),
)
_VOCABULARIES = (
    *(_FAST, "vocab.txt", "vocab.json", "vocab.bpe", "merges.txt", "bpe.codes", "dict.txt", "prophetnet.tokenizer"),
    *("tekken.json", "tiktoken.model", *_SENTENCEPIECE),
)
_FILES = (*_VOCABULARIES, _CONFIG, "special_tokens_map.json", "added_tokens.json")
# Entry of tokenizer_config.json -> the files of which it can be one.
_USUAL = {
    "tokenizer_file": (_FAST,),
    "vocab_file": ("vocab.txt", "vocab.json", *_SENTENCEPIECE),
    "merges_file": ("merges.txt", "bpe.codes"),
}
_WITHOUT = "export without a tokenizer (--no-tokenizer, in Python tokenizer=False) and run the graph on token ids"
_INSTALL = "pip install 'adapterdrop-onnx[tokenizers]'"


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer."""
    return any((folder / name).exists() for name in _VOCABULARIES)


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder.

    Args:
        folder: the model folder.

    Returns:
        A fast tokenizer; None if the folder has no file of a tokenizer.

    Raises:
        ExportError: the tokenizer is damaged or incomplete, needs a package that is not installed, or has no fast form.
    """
    if not any((folder / name).exists() for name in _FILES):
        return None
    what = f"the tokenizer in {str(folder)!r}"
    _check_tokens(folder)
    _check_bounds(_content(folder / _FAST), what)
    options = _own_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers, which is written in Rust, panics with a BaseException
        raise ExportError(f"{what} cannot be loaded: {_why(folder, error)}") from error
    return fast(tokenizer, what)


def fast(tokenizer: Any, what: str) -> Any:
    """Return a tokenizer as a fast one, without named chat templates.

    Args:
        tokenizer: a tokenizer of transformers, which is not changed.
        what: a description of the tokenizer, for messages.

    Raises:
        ExportError: it is not a tokenizer, transformers cannot convert it, or the runtime would refuse it.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        name = type(tokenizer).__name__
        if not isinstance(tokenizer, PreTrainedTokenizer):
            raise ExportError(
                f"expected a fast tokenizer, found {name}: load it with AutoTokenizer.from_pretrained(...), or {_WITHOUT}"
            )
        if name not in SLOW_TO_FAST_CONVERTERS:
            raise ExportError(f"{what} is a {name}, for which transformers has no fast form: {_WITHOUT}")
        tokenizer = _converted(tokenizer, f"{what}, a {name},")
    names = tokenizer.model_input_names
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise ExportError(f"{what} has the model_input_names {names!r}: expected a list of names, such as ['input_ids']")
    _check_bounds(tokenizer.backend_tokenizer.to_str().encode(), what)  # what transformers made of all files
    return _without_named_templates(tokenizer)


def _converted(tokenizer: PreTrainedTokenizer, what: str) -> Any:
    kind = getattr(transformers, f"{type(tokenizer).__name__}Fast", PreTrainedTokenizerFast)
    # transformers 5 has one map of special tokens, 4.57 one of AddedToken and one of strings.
    special = getattr(tokenizer, "special_tokens_map_extended", tokenizer.special_tokens_map)
    settings = {**tokenizer.init_kwargs, **special}
    # As from_pretrained passes them.
    settings |= {"__slow_tokenizer": tokenizer, "added_tokens_decoder": tokenizer.added_tokens_decoder}
    try:
        return kind(**settings)
    except Exception as error:  # the converters raise what the vocabulary's format leads to
        raise ExportError(f"{what} cannot be converted to a fast tokenizer: {first_line(error)}; {_WITHOUT}") from error


def _without_named_templates(tokenizer: Any) -> Any:
    """Leave out chat templates with names: save_pretrained takes the names, which a file chooses, for file names."""
    if not isinstance(getattr(tokenizer, "chat_template", None), dict):
        return tokenizer
    tokenizer = copy.copy(tokenizer)
    tokenizer.init_kwargs = {key: value for key, value in tokenizer.init_kwargs.items() if key != "chat_template"}
    tokenizer.chat_template = None
    return tokenizer


def _check_tokens(folder: Path) -> None:
    """Refuse tokens of extreme length, for which the libraries take minutes or end the process."""
    for name in (_CONFIG, "special_tokens_map.json", "added_tokens.json"):
        try:
            content = json.loads(_content(folder / name))
        except (ValueError, RecursionError):  # reported when the tokenizer is loaded
            continue
        if not isinstance(content, dict):
            continue
        found = content if name == "added_tokens.json" else _special(content)
        if any(len(token) > LONGEST_TOKEN for token in found):
            raise ExportError(
                f"{str(folder / name)!r} has a special token of more than {LONGEST_TOKEN:,} characters: {_WITHOUT}"
            )

    for name in (*_SENTENCEPIECE, "tiktoken.model"):
        if (size := longest_token(_content(folder / name))) > LONGEST_TOKEN:
            raise ExportError(
                f"{str(folder / name)!r} has a token of {size:,} bytes, expected at most {LONGEST_TOKEN:,}: {_WITHOUT}"
            )


def _content(path: Path) -> bytes:
    """The content of a file; empty for one that cannot be read, which is reported when the tokenizer is loaded."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _check_bounds(content: bytes, what: str) -> None:
    """Refuse a tokenizer that could take hours or gigabytes for a text, see `runtime.text.tokenizer_bounds`."""
    if found := excesses(content):
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise ExportError(f"{what} can take hours or gigabytes for a text: {'; '.join(found[:5])}{more}; {_WITHOUT}")


def _special(value: Any, is_token: bool = False) -> Iterator[str]:
    """The special tokens in nested JSON: strings, or the "content" of objects."""
    if isinstance(value, str) and is_token:
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _special(each, is_token)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _special(each, key == "content" or key.endswith(("_token", "_tokens")))


def _own_files(folder: Path) -> dict[str, str | None]:
    """Options that replace the vocabulary files that tokenizer_config.json names by those in the folder.

    save_pretrained copies these files: one from elsewhere would come into the bundle.
    """
    path = folder / _CONFIG
    if not path.is_file():
        return {}
    named = {key: value for key, value in read_json(path).items() if key.endswith("_file") and isinstance(value, str)}
    own = {key: (Path(value).name, *_USUAL.get(key, ())) for key, value in named.items()}
    # Names that are too long, or no names at all, are not in the folder.
    present = {each.name for each in folder.iterdir() if each.is_file()}
    return {key: next((str(folder / name) for name in names if name in present), None) for key, names in own.items()}


def _why(folder: Path, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return f"it needs code from the folder, which is never run; {_WITHOUT}"
    if not has_vocabulary(folder):
        return f"it has no vocabulary ({_FAST}, vocab.txt, spiece.model, …): copy the complete folder, or {_WITHOUT}"
    if not (folder / _FAST).exists() and any((folder / name).exists() for name in _SENTENCEPIECE):
        if missing := [name for name in ("sentencepiece", "google.protobuf", "tiktoken") if not _installed(name)]:
            names = ", ".join(missing).replace("google.", "")
            return f"it needs {names}, not installed: {_INSTALL}; or {_WITHOUT}"
        if type(error).__name__ == "VersionError":
            return f"the versions of sentencepiece and protobuf do not fit together: {_INSTALL}; or {_WITHOUT}"
    return f"{first_line(error)}; save it again, or {_WITHOUT}"


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package
        return False
