"""Folders of sentence-transformers: what comes after the text encoder, as `modules.json` lists it.

Types of modules and activations are compared with known names. Nothing that a folder names is imported or run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.files import read_json, read_weights
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_layout import MODULE_FOLDER, SENTENCE_MODULES, is_module_of
from exporter.checkpoints.sentence_pooling import pooling_modes
from exporter.errors import ExportError
from exporter.models.embeddings import ACTIVATIONS, Dense, Embedder, Normalize, Truncate

__all__ = ["SentenceFolder", "read_sentence_folder", "sentence_root", "sentence_task"]

_OPTIONS = "config_sentence_transformers.json"
# Settings of the encoder: versions before 1 named the file after the model, and the first one with entries counts.
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TRANSFORMER = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
# Kind of a module -> the file of its class.
_FILES = {
    **{kind: kind.lower() for kind in ("Transformer", "Pooling", "Normalize", "Dense", "Dropout")},
    "LayerNorm": "layer_norm",
}
_SUPPORTED = tuple(_FILES)
# Where the classes are: until 5.3, then in one of two packages, which was another one in 5.7 than in 6 for some of them.
_PACKAGES = ("models", "base.modules", "sentence_transformer.modules")
# The names under which the versions of the library write, and read, the type of a module.
_TYPES: Mapping[str, str] = {
    f"sentence_transformers.{package}.{name}": kind
    for package in _PACKAGES
    for kind, file in _FILES.items()
    for name in (kind, f"{kind}.{kind}", f"{file}.{kind}")
}
# Settings of the encoder that change what it reads or computes; False, None and empty ones change nothing.
_REFUSED = (
    *("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs", "processing_kwargs"),
    *("query_length", "document_length", "query_expansion"),
)
_LARGEST = 2**20


@dataclass(frozen=True)
class SentenceFolder:
    """The modules and limits that a folder of sentence-transformers adds to a text encoder.

    Attributes:
        embedder: from hidden states to embeddings.
        max_length: the longest text in tokens; None without a limit.
    """

    embedder: Embedder
    max_length: int | None


def sentence_root(folder: Path) -> Path | None:
    """Return the folder with the list of modules, if there is one: that of the encoder, or the one above it."""
    if (folder / SENTENCE_MODULES).is_file():
        return folder
    above = folder.resolve().parent
    return above if is_module_of(above, folder.resolve().name) else None


def sentence_task(folder: Path) -> str | None:
    """Return what sentence-transformers uses an encoder for, such as feature-extraction.

    Args:
        folder: the folder of the encoder or its adapter.

    Returns:
        The task; None for a folder of another library, or of a cross-encoder, which has the head of its class.

    Raises:
        ExportError: a file is damaged.
    """
    if sentence_root(folder) is None:
        return None
    task = str(_transformer(folder)[1].get("transformer_task", "feature-extraction"))
    return None if task == "sequence-classification" else task


def read_sentence_folder(part: Part, hidden_size: int) -> SentenceFolder:
    """Read the modules after the encoder.

    Args:
        part: an adapter in a folder of sentence-transformers.
        hidden_size: the features of the encoder's hidden states.

    Raises:
        ExportError: a module, pooling, activation or setting is not supported, or sizes do not match.
    """
    root = sentence_root(part.folder)
    assert root is not None  # as is_sentence_folder found
    modules = _modules(root / SENTENCE_MODULES)
    path, transformer = _transformer(part.folder)
    _check_transformer(part, path, transformer)
    if not modules or modules[0][0] != "Transformer":
        raise ExportError(
            f"{str(root / SENTENCE_MODULES)!r} must begin with a Transformer, found {modules[0][0] if modules else 'none'}"
        )
    if len(modules) < 2 or modules[1][0] != "Pooling":
        found = modules[1][0] if len(modules) > 1 else "none"
        raise ExportError(f"{str(root / SENTENCE_MODULES)!r} must have a Pooling after the Transformer, found {found}")
    prompts, default = _prompts(root / _OPTIONS)
    modes = pooling_modes(modules[1][1] / "config.json", hidden_size, any(prompts.values()))
    width = hidden_size * len(modes)
    steps: list[nn.Module] = []
    for kind, folder in modules[2:]:
        if kind in ("Transformer", "Pooling"):
            raise ExportError(f"{str(root / SENTENCE_MODULES)!r} has a second {kind}: expected one, before the other modules")
        step = _step(kind, folder, width)
        if step is not None:
            steps.append(step)
            width = step.linear.out_features if isinstance(step, Dense) else width
    most = _most_numbers(root / _OPTIONS)
    if most is not None and most < width:
        steps.append(Truncate(most))
        width = most
    return SentenceFolder(Embedder(modes, steps, width, prompts, default), _limit(part, transformer))


def _modules(path: Path) -> list[tuple[str, Path]]:
    """Type and folder of each module."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{str(path)!r} cannot be read as JSON ({error}): save it again") from error
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ExportError(f"{str(path)!r} must contain a list of modules: save it again")
    found = []
    for each in content:
        name, folder = each.get("type"), each.get("path")
        kind = _TYPES.get(name) if isinstance(name, str) else None
        if kind is None:
            raise ExportError(
                f"{str(path)!r} lists a module of type {name!r}, which is not supported and never imported: expected "
                f"{', '.join(_SUPPORTED)} of sentence-transformers"
            )
        if not isinstance(folder, str) or (folder and not MODULE_FOLDER.fullmatch(folder)):
            raise ExportError(f"{str(path)!r} has a module in {folder!r}: expected a folder in this folder")
        found.append((kind, path.parent / folder))
    return found


def _transformer(folder: Path) -> tuple[str, dict[str, Any]]:
    """The path of the encoder's settings, for messages, and its content."""
    for name in _TRANSFORMER:
        if content := _optional(folder / name):
            return str(folder / name), content
    return str(folder / _TRANSFORMER[0]), {}


def _check_transformer(part: Part, path: str, config: Mapping[str, Any]) -> None:
    for key in _REFUSED:
        if config.get(key):
            raise ExportError(f"{path!r} sets {key} to {config[key]!r}, which is not supported: remove it if it has no effect")
    if (task := config.get("transformer_task", "feature-extraction")) != "feature-extraction":
        raise ExportError(f"{path!r} has the transformer_task {task!r}: expected feature-extraction or sequence-classification")
    if (output := config.get("module_output_name", "token_embeddings")) != "token_embeddings":
        raise ExportError(f"{path!r} has the module_output_name {output!r}: expected token_embeddings")
    if config.get("do_lower_case") and not _optional(part.folder / "tokenizer_config.json").get("do_lower_case"):
        raise ExportError(f"{path!r} sets do_lower_case, the tokenizer does not: add lower case to the tokenizer's normalizer")


def _limit(part: Part, config: Mapping[str, Any]) -> int | None:
    """The longest text: older versions write it with the encoder's settings, newer ones with the tokenizer's."""
    tokenizer = _optional(part.folder / "tokenizer_config.json")
    limit = config.get("max_seq_length") or tokenizer.get("model_max_length")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= _LARGEST:
        return None
    return int(limit)


def _most_numbers(path: Path) -> int | None:
    """The numbers to which the library truncates vectors after all modules; None if it keeps them all."""
    most = _optional(path).get("truncate_dim")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ExportError(f"the truncate_dim of {str(path)!r} must be a positive number, found {most!r}")
    return most


def _prompts(path: Path) -> tuple[dict[str, str], str]:
    config = _optional(path)
    prompts = {} if config.get("prompts") is None else config["prompts"]
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ExportError(f"the prompts of {str(path)!r} must be texts by name, found {prompts!r}")
    default = config.get("default_prompt_name") or ""
    if default and default not in prompts:
        raise ExportError(f"the default_prompt_name of {str(path)!r} must be one of {', '.join(prompts)}, found {default!r}")
    return {name: text or "" for name, text in prompts.items()}, default


def _step(kind: str, folder: Path, width: int) -> nn.Module | None:
    """The module of a folder, which reads vectors of `width` numbers; None for one that only has an effect in training."""
    config = _optional(folder / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ExportError(f"{str(folder / 'config.json')!r} sets {key} to {config[key]!r}: expected sentence_embedding")
    if kind == "Dropout":
        return None
    if kind == "Normalize":
        return Normalize()
    if kind == "LayerNorm":
        _check_size(folder, "dimension", config.get("dimension"), width)
        return _loaded(nn.LayerNorm(width), folder, "norm.")
    return _dense(folder, config, width)


def _dense(folder: Path, config: Mapping[str, Any], width: int) -> nn.Module:
    path = str(folder / "config.json")
    _check_size(folder, "in_features", config.get("in_features"), width)
    size = config.get("out_features")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _LARGEST:
        raise ExportError(f"{path!r} must have out_features, found {size!r}")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS:
        raise ExportError(
            f"{path!r} has the activation_function {activation!r}, which is not supported and never imported: expected one of "
            f"{', '.join(name.rpartition('.')[2] for name in ACTIVATIONS)} of torch.nn"
        )
    bias, residual = bool(config.get("bias", True)), bool(config.get("use_residual", False))
    return _loaded(Dense((width, size), bias, activation, residual), folder, "")


def _check_size(folder: Path, key: str, found: Any, width: int) -> None:
    if found != width:
        raise ExportError(
            f"{str(folder / 'config.json')!r} has {key} {found!r}, but the module before it gives {width} numbers: the folder "
            "is damaged; save it again"
        )


def _loaded(module: nn.Module, folder: Path, prefix: str) -> nn.Module:
    """A module with the weights of its folder, in fp32 and without gradients."""
    what = f"the module in {str(folder)!r}"
    weights = read_weights(folder, "model.safetensors", "pytorch_model.bin", what)
    own = module.state_dict()
    given = {key.removeprefix(prefix): value for key, value in weights.items()}
    if given.keys() != own.keys():
        expected, found = (", ".join(sorted(each)) for each in (own, given))
        raise ExportError(f"{what} has the weights {found}: expected {expected}")
    for key, tensor in given.items():
        if tensor.shape != own[key].shape:
            raise ExportError(f"{what} has {key} of shape {list(tensor.shape)}: expected {list(own[key].shape)}")
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{what} has NaN or infinity in {key}: the folder is damaged or its training diverged")
    module.load_state_dict({key: value.float() for key, value in given.items()})
    return module.eval().requires_grad_(False)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
