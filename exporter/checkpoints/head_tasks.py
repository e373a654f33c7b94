"""Tasks with linear heads over the embeddings of one text encoder, which they do not change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.base_model import load_folder
from exporter.checkpoints.files import read_json
from exporter.checkpoints.linear_heads import LinearHead
from exporter.checkpoints.peft_class import HEADLESS
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_folder import read_sentence_folder, sentence_root, sentence_task
from exporter.checkpoints.sentence_pooling import parse_pooling
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError
from exporter.models.embeddings import Embedder, Normalize, add_embedders
from exporter.models.own_tasks import OwnModel, OwnTask
from exporter.models.shared_copy import share_trunk

__all__ = ["load_heads"]

# What SetFit writes next to the folder of sentence-transformers.
_SETFIT = "config_setfit.json"


def load_heads(
    source: Source, heads: Mapping[str, LinearHead], pooling: Mapping[str, Any], trunk: Any = None
) -> tuple[OwnModel, int | None]:
    """Load a text encoder with linear heads.

    Args:
        source: the folder of the encoder: of transformers, sentence-transformers or SetFit.
        heads: task name -> head.
        pooling: task name -> pooling, for a folder that does not state one.
        trunk: a model whose weights are shared; None for those of the folder.

    Returns:
        The model, and the longest text in tokens that the folder states; None without a limit.

    Raises:
        ExportError: the folder is damaged or incomplete, a pooling is missing, or a head has another width.
    """
    loaded = load_folder(source, HEADLESS)
    if lacking := sorted(key for key in loaded.missing if not key.startswith("pooler.")):
        raise ExportError(
            f"the model folder {source.text!r} lacks {len(lacking)} weights, first {lacking[0]!r}: save the whole model again"
        )
    if trunk is not None:
        share_trunk(loaded.model, trunk)
    root = sentence_root(source.folder) or source.folder
    settings = read_json(path) if (path := root / _SETFIT).is_file() else {}
    embedders, limit = {}, None
    stated: tuple[tuple[str, ...], tuple[nn.Module, ...], int] | None = None
    prompts: dict[str, Any] = {}
    if sentence_task(source.folder) is not None:
        part = Part("model", next(iter(heads)), None, source.folder, {})
        folder = read_sentence_folder(part, loaded.model.config.hidden_size)
        stated, limit = (folder.embedder.pooling.modes, tuple(folder.embedder.steps), folder.embedder.width), folder.max_length
        prompts = {"prompts": folder.embedder.prompts, "default_prompt": folder.embedder.default_prompt}
    last = (Normalize(),) if settings.get("normalize_embeddings") is True else ()
    for name, head in heads.items():
        modes, steps, width = stated or _named(name, pooling, source.folder, loaded.model.config.hidden_size)
        if stated and name in pooling:
            raise ExportError(f"the head {name!r} has the pooling of the model's modules.json: omit {name}={pooling[name]}")
        if head.weights.shape[1] != width:
            raise ExportError(
                f"the head {name!r} is for embeddings of {head.weights.shape[1]} numbers, those of {source.text!r} have "
                f"{width}: give the model that it was trained on"
            )
        labels = _labels(head, settings.get("labels"))
        embedders[name] = Embedder(modes, (*steps, *last, _linear(head)), width, kind=head.kind, labels=labels, **prompts)
    found = OwnModel(loaded.model, {name: OwnTask(loaded.model.config) for name in heads})
    add_embedders(found, embedders)
    return found.eval(), limit


def _named(
    name: str, pooling: Mapping[str, Any], folder: Path, width: int
) -> tuple[tuple[str, ...], tuple[nn.Module, ...], int]:
    if name not in pooling:
        raise ExportError(
            f"{str(folder)!r} does not state how the embeddings under the head {name!r} are pooled (no modules.json): name the "
            f"pooling, such as --pooling {name}=mean"
        )
    modes = parse_pooling(name, pooling[name])
    return modes, (), width * len(modes)


def _linear(head: LinearHead) -> nn.Linear:
    count, width = head.weights.shape
    layer = nn.Linear(width, count)
    with torch.no_grad():
        layer.weight.copy_(head.weights)
        layer.bias.copy_(head.bias)
    return layer


def _labels(head: LinearHead, stated: Any) -> tuple[str, ...]:
    """The names of SetFit's configuration where the head has only numbers."""
    count = len(head.weights)
    plain = not head.labels or head.labels == tuple(map(str, range(count)))
    if plain and isinstance(stated, list) and len(stated) == count:
        return tuple(map(str, stated))
    return head.labels or tuple(f"LABEL_{number}" for number in range(count))
