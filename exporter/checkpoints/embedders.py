"""The modules after text encoders, of all adapters of a model: from their folders, or by the name of a pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporter.checkpoints.scan import Part
from exporter.checkpoints.sentence_folder import read_sentence_folder, sentence_task
from exporter.checkpoints.sentence_pooling import parse_pooling
from exporter.errors import ExportError
from exporter.models.embeddings import Embedder, add_embedders
from exporter.models.heads import find_head
from exporter.models.library import library_of, owner_of

__all__ = ["check_poolable", "check_pooling", "embed", "named_embedders", "saved_embedders"]


def check_pooling(pooling: Any) -> None:
    """Check the type of a request for poolings.

    Raises:
        ExportError: it is no mapping.
    """
    if pooling is not None and not isinstance(pooling, Mapping):
        raise ExportError(f"pooling must be a mapping from adapters to poolings, such as {{'name': 'mean'}}, found {pooling!r}")


def check_poolable(pooling: Mapping[str, Any]) -> None:
    """Check that there is no request, for a model without PEFT adapters.

    Raises:
        ExportError: there is one.
    """
    if pooling:
        names = ", ".join(map(repr, pooling))
        raise ExportError(f"a pooling is for PEFT adapters, which this model does not have: omit the pooling of {names}")


def saved_embedders(parts: Sequence[Part], config: Any) -> tuple[dict[str, Embedder], int | None]:
    """Read the modules of adapters that sentence-transformers saved.

    Args:
        parts: the adapters of a model without a head, and such models.
        config: the configuration of that model.

    Returns:
        Adapter -> modules, without adapters of other folders; and the longest text in tokens, None without a limit.

    Raises:
        ExportError: as in `read_sentence_folder`; or two folders have different limits.
    """
    found, limits = {}, {}
    for part in parts:
        if sentence_task(part.folder) is not None:
            folder = read_sentence_folder(part, config.hidden_size)
            found[part.name] = folder.embedder
            if folder.max_length is not None:
                limits[part.name] = folder.max_length
    (first, limit), *others = limits.items() or [("", None)]
    for name, other in others:
        if other != limit:
            raise ExportError(
                f"the tasks {first!r} and {name!r} have a max_seq_length of {limit} and {other} tokens: the tasks of a "
                "graph share one limit; give them the same one, or export them separately"
            )
    return found, limit


def named_embedders(model: Any, pooling: Mapping[str, Any], saved: Mapping[str, Embedder]) -> dict[str, Embedder]:
    """Make the modules of adapters whose pooling is requested by name.

    Args:
        model: a PEFT model, or several of them.
        pooling: adapter -> pooling.
        saved: adapter -> the modules that were saved with it.

    Raises:
        ExportError: an adapter is unknown, has a head or modules of its folder, or a pooling is unknown.
    """
    found = {}
    for name, text in pooling.items():
        owner = owner_of(model, name)
        known = library_of(model).adapters_of(model)
        if name not in known:
            raise ExportError(f"unknown adapter {name!r} in pooling; adapters: {', '.join(known)}")
        if name in saved:
            raise ExportError(f"the adapter {name!r} has a pooling in the modules.json of its folder: omit {name}={text}")
        modes = parse_pooling(name, text)
        if (kind := find_head(owner, name, "").kind) != "hidden_states":
            raise ExportError(
                f"the adapter {name!r} has a head of type {kind}: a pooling is for adapters of a model without a head "
                "(FEATURE_EXTRACTION)"
            )
        found[name] = Embedder(modes, (), owner.config.hidden_size * len(modes))
    return found


def embed(model: Any, embedders: Mapping[str, Embedder]) -> None:
    """Let a PEFT model, or several of them, compute embeddings, in place."""
    for part in getattr(model, "parts", [model]):
        add_embedders(part, {name: each for name, each in embedders.items() if name in library_of(part).adapters_of(part)})
