"""A checkpoint folder, the bundled example or a live model -> Checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import torch
from transformers import AutoTokenizer, PreTrainedModel

from .errors import ExportError
from .example import ADAPTERS, trunk_folder
from .quiet import quiet

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Checkpoint:
    """Attributes:
    model: an adapters model, as the user handed it over or freshly loaded.
    tokenizer: a fast transformers tokenizer, or None where there is none.
    source: what the user named, for messages.
    """

    model: Any
    tokenizer: Any
    source: str


def load(model: Any, tokenizer: Any = None) -> Checkpoint:
    """`model`: None for the bundled example, a folder from save_pretrained, or a live adapters model.

    Raises:
        ExportError: no such folder, a damaged one, or a model that is none of the adapters library's.
    """
    if model is None:
        found = _example()
    elif isinstance(model, str | Path):
        found = _folder(Path(model))
    else:
        found = Checkpoint(_live(model), None, type(model).__name__)
    if tokenizer is not None and not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"expected a fast tokenizer, found {type(tokenizer).__name__}: load it with AutoTokenizer.from_pretrained(...), "
            "or leave the tokenizer out and give the graph token ids"
        )
    return found if tokenizer is None else Checkpoint(found.model, tokenizer, found.source)


def _live(model: Any) -> Any:
    if isinstance(model, PreTrainedModel) and hasattr(model, "adapters_config") and hasattr(model, "iter_layers"):
        return model
    raise ExportError(
        f"expected a model with adapters, found {type(model).__name__}: load it with adapters.AutoAdapterModel.from_pretrained"
    )


def _example() -> Checkpoint:
    try:
        trunk = trunk_folder()
    except ModuleNotFoundError as error:
        raise ExportError(str(error)) from error
    checkpoint = _folder(trunk)
    for folder in sorted(path.parent for path in ADAPTERS.glob("*/adapter_config.json")):
        # Without use_safetensors the library looks for .bin files alone.
        checkpoint.model.load_adapter(str(folder), load_as=folder.name, use_safetensors=True)
    return Checkpoint(checkpoint.model, checkpoint.tokenizer, "the bundled example")


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ExportError(f"there is no model folder {str(folder)!r}: expected what model.save_pretrained(folder) writes")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(
            f"{str(folder)!r} is no model folder: it has no config.json; write one with model.save_pretrained"
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{str(path)!r} cannot be read as JSON ({error}): save the model again") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ExportError(f"{str(path)!r} names no model_type: expected what model.save_pretrained(folder) writes")
    return config


def _folder(folder: Path) -> Checkpoint:
    _read_config(folder)
    try:
        with quiet():
            model, info = adapters.AutoAdapterModel.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    # Libraries raise what they like on a damaged file (OSError, ValueError, KeyError, SafetensorError, UnpicklingError, …).
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"the model folder {str(folder)!r} cannot be loaded: {reason[0]}") from error
    _check_complete(folder, model, info)
    return Checkpoint(model.eval(), _tokenizer(folder), str(folder))


def _check_complete(folder: Path, model: Any, info: dict[str, Any]) -> None:
    """Refuses a checkpoint that transformers completed with random weights, which it does with a mere warning."""
    uses_pooler = any(head.config.get("use_pooler") for head in getattr(model, "heads", {}).values())
    missing = sorted(key for key in info["missing_keys"] if uses_pooler or ".pooler." not in key)
    # Adapters embed the word embeddings a second time, under a name that checkpoints do not have.
    missing = [key for key in missing if "prompt_tuning.base_model_embeddings" not in key]
    if missing:
        raise ExportError(
            f"the model folder {str(folder)!r} lacks {len(missing)} weights that its config.json names, first {missing[0]!r}: "
            "save the complete model again"
        )
    strange = sorted(key for key in info["unexpected_keys"] if ".adapters." in key or key.startswith("heads."))
    if strange:
        raise ExportError(
            f"the model folder {str(folder)!r} holds weights of adapters or heads that its config.json does not name, first "
            f"{strange[0]!r}: save the model again"
        )


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"the tokenizer in {str(folder)!r} cannot be loaded: {reason[0]}") from error
    return tokenizer if tokenizer.is_fast else None


def check_finite(model: Any) -> None:
    """Refuses weights that are not numbers.

    Raises:
        ExportError: names the first weight with NaN or infinity.
    """
    for name, parameter in model.named_parameters():
        # The sum is not finite if any element is not; it can also overflow, so only then every element is looked at.
        if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter.detach()).all():
            raise ExportError(f"the weight {name!r} holds NaN or infinity: the checkpoint is damaged or its training diverged")
